"""For all tests: properties are about what is true, not about how quickly this computer finds out."""

from hypothesis import settings

from tests.guests.debian import debian_guest

__all__ = ["debian_guest"]

settings.register_profile("ftvm", deadline=None)
settings.load_profile("ftvm")
