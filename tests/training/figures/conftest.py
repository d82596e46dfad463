import pytest

from acquisition.masks import UNKNOWN
from tests.training.discs import disc_example
from tests.training.figures.small_version import OWN, write_members
from training.committee.committee import Committee


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return write_members(tmp_path_factory.mktemp("versions") / "4")


@pytest.fixture(scope="module")
def committee(version):
    return Committee.load(version, engine="torch", own_network=OWN)


@pytest.fixture
def example():
    made = disc_example("a", 0)
    made.mask[:10, :20] = UNKNOWN
    return made
