"""STAR syntax: everything legal reads, nothing is lost on the way out, and what is wrong is named by row."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from gemmi import cif
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.data.star import read_star, write_star
from frazil.data.table import Block, Table, as_text
from frazil.errors import InputError


def read(tmp_path: Path, text: str) -> Table:
    path = tmp_path / "file.star"
    path.write_text(text)
    return read_star(path)


def test_blocks_keep_their_order_and_a_nameless_block_is_called_by_an_empty_name(tmp_path: Path) -> None:
    table = read(tmp_path, "data_b\n\n_x 1\n\ndata_\n\nloop_\n_y #1\n2\n3\n")
    assert table.names == ("b", "")
    assert table[""].text("y") == ["2", "3"]
    assert not table["b"].is_loop


def test_pairs_read_as_a_block_of_one_row(tmp_path: Path) -> None:
    block = read(tmp_path, 'data_optics\n_rlnVoltage   300.0\n_rlnOpticsGroupName "my group"\n')["optics"]
    assert (block.count, block.numbers("rlnVoltage")[0], block.text("rlnOpticsGroupName")) == (1, 300.0, ["my group"])


def test_columns_need_no_numbers_and_comments_after_them_are_ignored(tmp_path: Path) -> None:
    block = read(tmp_path, "data_p\nloop_\n_a\n_b #2 [Some Remark]\n1 2\n3 4\n").blocks[0]
    assert block.columns == ("a", "b")
    assert block.integers("b").tolist() == [2, 4]


def test_quoted_empty_and_blank_strings_read_and_are_written_back(tmp_path: Path) -> None:
    values = ["", " ", "a b", "it's", 'say "hi" now', "_odd", "#7", "data_x", "loop_", "[1,2]", "plain"]
    path = tmp_path / "out.star"
    write_star(path, Table((Block("p", {"value": values}, len(values)),)))
    assert read_star(path)["p"].text("value") == values


def test_windows_lines_byte_order_mark_and_gzip_all_read(tmp_path: Path) -> None:
    text = "data_p\r\nloop_\r\n_a #1\r\n_b #2\r\n1 x\r\n2 y\r\n"
    path = tmp_path / "file.star.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert read_star(path)["p"].text("b") == ["x", "y"]


def test_an_empty_loop_is_a_block_without_rows(tmp_path: Path) -> None:
    block = read(tmp_path, "data_\n\nloop_\n_rlnCoordinateX #1\n\n").blocks[0]
    assert (block.count, block.columns, block.numbers("rlnCoordinateX").shape) == (0, ("rlnCoordinateX",), (0,))


def test_whole_numbers_written_as_floats_are_integers() -> None:
    assert Block("p", {"a": ["3.000000", "4"]}, 2).integers("a").tolist() == [3, 4]


def test_untouched_columns_are_written_letter_for_letter(tmp_path: Path) -> None:
    rows = "1.500000 1.421115e+05 000001@a.mrcs\n-0.00755 7 000002@a.mrcs\n"
    table = read(tmp_path, f"data_p\nloop_\n_a #1\n_b #2\n_c #3\n{rows}")
    write_star(tmp_path / "out.star", table)
    assert rows in (tmp_path / "out.star").read_text()


def test_selecting_rows_selects_every_column() -> None:
    block = Block("p", {"a": ["x", "y", "z"], "b": np.array([1.0, 2.0, 3.0])}, 3).select(np.array([2, 0]))
    block = block.select(np.array([1])).with_columns({"c": ["new"]})
    assert (block.text("a"), block.numbers("b").tolist(), block.text("c")) == (["x"], [1.0], ["new"])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_infinity=False),
            st.integers(-(10**15), 10**15),
            st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")), max_size=12).filter(
                lambda text: not ('"' in text and "'" in text)
            ),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_table_survives_writing_and_reading(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    numbers, integers, texts = (list(column) for column in zip(*rows, strict=True))
    path = tmp_path_factory.mktemp("star") / "a.star"
    columns = {"f": np.array(numbers), "i": np.array(integers), "t": texts}
    write_star(path, Table((Block("p", columns, len(rows)),)))
    block = read_star(path)["p"]
    assert block.numbers("f").tolist() == numbers
    assert block.integers("i").tolist() == integers
    assert block.text("t") == texts


def test_what_is_written_is_valid_star_for_another_reader(tmp_path: Path) -> None:
    path = tmp_path / "out.star"
    columns = {"rlnA": np.array([0.1, 2.0]), "rlnB": ["a b", ""]}
    write_star(path, Table((Block("one", {"rlnX": ["5"]}, 1, is_loop=False), Block("two", columns, 2))), "a comment")
    document = cif.read(str(path))
    assert [block.name for block in document] == ["one", "two"]
    assert document[0].find_value("_rlnX") == "5"
    assert [cif.as_string(value) for value in document[1].find_loop("_rlnB")] == ["a b", ""]


def test_vectors_and_bytes_are_written_as_readable_text() -> None:
    assert as_text(np.array([[1.0, 0.5], [2.0, 3.0]])) == ["[1.0,0.5]", "[2.0,3.0]"]
    assert as_text(np.array([b"a.mrc"])) == ["a.mrc"]
    assert as_text(np.array([0.1], np.float32)) == ["0.1"]


def test_a_word_in_a_column_of_numbers_names_file_and_row(tmp_path: Path) -> None:
    table = read(tmp_path, "data_p\nloop_\n_a #1\n1.0\n2.0\nlots\n")
    with pytest.raises(InputError, match=r"file\.star:3 \(block p\): column a holds 'lots' where a number is needed"):
        table["p"].numbers("a")
    with pytest.raises(InputError, match=r":3 .*'lots'"):
        table["p"].select(np.array([2])).numbers("a")


def test_a_fraction_where_a_whole_number_is_needed_names_the_row() -> None:
    with pytest.raises(InputError, match="2.*holds 1.5 where a whole number is needed"):
        Block("p", {"a": ["1", "1.5"]}, 2).integers("a")


def test_a_missing_column_lists_those_that_are_there() -> None:
    with pytest.raises(InputError, match="column rlnB is missing. The columns are: rlnA"):
        Block("p", {"rlnA": ["1"]}, 1).numbers("rlnB")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_p\nloop_\n_a #1\n_b #2\n1 2\n3\n", r"file\.star:6: this row has 1 values, the table has 2 columns"),
        ("data_p\nloop_\n_a #1\n_b #2\n1 2\n3 4 5\n", r"file\.star:6: this row has 3 values, the table has 2 columns"),
        ("data_p\nloop_\n_a #1\n_a #2\n1 2\n", "column a appears twice"),
        ("hello world\n", "not a STAR file: it has no data_ line"),
        ("loop_\n_a #1\n1\n", "not a STAR file: it has no data_ line"),
        ("# only a comment\n", "no data block"),
        ("", "no data block"),
        ("data_p\n_a 'open\n", r"file\.star:2: not valid STAR"),
    ],
)
def test_broken_star_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_missing_file_a_folder_and_a_binary_file_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_star(tmp_path / "none.star")
    with pytest.raises(InputError, match="no such file"):
        read_star(tmp_path)
    (tmp_path / "b.star").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="binary file"):
        read_star(tmp_path / "b.star")
    (tmp_path / "cut.star.gz").write_bytes(gzip.compress(b"data_p\n_a 1\n")[:-9])
    with pytest.raises(InputError, match="damaged gzip"):
        read_star(tmp_path / "cut.star.gz")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text("old")
    uneven = Table((Block("p", {"a": ["1", "2"], "b": ["1"]}, 2),))
    with pytest.raises(ValueError, match=re.escape("zip()")):
        write_star(path, uneven)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.star"]
