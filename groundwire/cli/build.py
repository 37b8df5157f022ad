"""`groundwire build`: a recipe to a bundle."""

from pathlib import Path

import click

from groundwire.cli.signals import ended_by_sigterm


@click.command()
@click.argument("recipe", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write, replaced as a whole.")
@click.option("--keep-work", is_flag=True, help="Keep OUT.work: trained weights, FP32 graph, training history.")
def build(recipe: Path, out: Path, *, keep_work: bool) -> None:
    """Train, harden, compress, calibrate and certify a model as RECIPE.toml says.

    An interrupted build goes on where it was when it is started again. With `accelerate launch -m groundwire.cli build`
    it trains on several GPUs.
    """
    from groundwire.export.recipe import build_bundle
    from groundwire.export.settings import read_recipe
    from groundwire.export.train_stage import assist_training

    settings = read_recipe(recipe)
    if assist_training(settings):
        return
    with ended_by_sigterm():
        bundle = build_bundle(settings, out, keep_work=keep_work)
    served = bundle.certificate.stages[-1]
    click.echo(f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version}")
    click.echo(f"accuracy {served.clean_accuracy.value:.1%} on {served.clean_accuracy.examples} test examples")
    for attack in served.robust_accuracy:
        click.echo(
            f"accuracy {attack.accuracy.value:.1%} on {attack.accuracy.examples} under "
            f"{attack.attack.upper()}-{attack.steps} ({attack.norm}, epsilon {attack.epsilon:g})"
        )
    click.echo(f"certificate: {bundle.path / 'certificate.html'}")
