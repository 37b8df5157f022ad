"""`python -m groundwire.cli`, which is how `accelerate launch -m` and `torchrun -m` start it."""

from groundwire.cli import main

main()
