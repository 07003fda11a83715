"""For all tests."""

from hypothesis import settings

# A timing is no test: on a busy machine an example may take as long as it likes.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")
