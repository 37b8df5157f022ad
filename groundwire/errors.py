"""The root of Groundwire's exceptions.

Each package derives its own tree from it (`groundwire.kg.errors`, `groundwire.export.errors`,
`groundwire.server.errors`). None carries a transport code: `groundwire.server.status` maps them to gRPC.
"""


class GroundwireError(Exception):
    """Anything that went wrong in a way that Groundwire can explain. The message says what to do next."""


class BundleError(GroundwireError):
    """A bundle is missing, incomplete, changed since it was written, or of a format that is not known."""
