"""A property that did not hold."""


class Violation(AssertionError):
    """Raised by a checker, inside the simulation; the runner adds seed and trace."""
