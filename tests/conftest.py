"""For all tests."""

from hypothesis import settings

# A timing is no test: on a busy machine an example may take as long as it likes. And a suite that
# passed passes again; `make campaign` looks for new examples.
settings.register_profile("searching", deadline=None)
settings.register_profile("same", settings.get_profile("searching"), derandomize=True)
settings.load_profile("same")
