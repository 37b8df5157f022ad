"""The offline toolchain: attack, train, calibrate, quantize, export and certify models."""
