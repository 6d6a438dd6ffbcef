"""For all tests: properties are about what is true, not about how quickly this computer finds out."""

from hypothesis import settings

settings.register_profile("ftvm", deadline=None)
settings.load_profile("ftvm")
