"""Tables of plain text."""
from zoo.utils import text_tables


def test_tables():
    assert text_tables.table([('a', '1'), ('long', '2')]) == '---------\n  a     1\n  long  2\n---------'
