"""docs/configuration.md has the table of settings that the program itself prints."""

from cljax import settings
from tests.helpers import tiny_runs

PAGE = (tiny_runs.ROOT / "docs" / "configuration.md").read_text()


def test_the_table_is_the_one_that_the_program_prints():
    assert settings.markdown() in PAGE, "python -m cljax.settings prints it"
