"""Tables of an earlier run are gone on with."""

from benchmarks.support.table import earlier_rows, table

HEAD = ("variant", "s")


def test_rows_that_are_not_measured_anew_stay(tmp_path):
    path = tmp_path / "speed.md"
    other = table(("variant", "ms", "load"), [["demo", 3, 4]])
    rows = [["demo", 1], ["tiny", 2]]
    path.write_text(f"# Time\n\nText | with a bar.\n\n{other}\n\n{table(HEAD, rows)}\n")
    assert earlier_rows(path, HEAD, ["demo"]) == [["tiny", "2"]]
    assert earlier_rows(path, HEAD, []) == [["demo", "1"], ["tiny", "2"]]


def test_a_table_below_with_as_many_columns_is_left_out(tmp_path):
    path = tmp_path / "speed.md"
    below = table(("variant", "ms"), [["tiny", 3]])
    path.write_text(f"{table(HEAD, [['tiny', 2]])}\n\n## More\n\n{below}\n")
    assert earlier_rows(path, HEAD, []) == [["tiny", "2"]]
    assert earlier_rows(path, ("variant", "ms"), []) == [["tiny", "3"]]


def test_another_table_gives_no_rows(tmp_path):
    path = tmp_path / "speed.md"
    assert earlier_rows(path, HEAD, []) == []
    path.write_text(table(("variant", "ms"), [["demo", 1]]))
    assert earlier_rows(path, HEAD, []) == []
    assert earlier_rows(None, HEAD, []) == []
