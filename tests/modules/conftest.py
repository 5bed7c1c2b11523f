"""Models that several modules of tests try tools on."""
import pytest

from tests.modules.cases import create, one_case_or_all


@pytest.fixture(scope='module', params=one_case_or_all())
def model(request):
    """In eval mode; nothing that the tools of a module leave behind changes what its next one sees."""
    return create(request.param)
