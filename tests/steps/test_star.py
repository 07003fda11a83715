from pathlib import Path

import pytest

from scsched.steps import star
from scsched.steps.star import Torn
from tests.relion_data import star_block


@pytest.fixture
def data_star(tmp_path: Path) -> Path:
    path = tmp_path / "run_it001_data.star"
    rows = [{"rlnImageName": f"{i:06d}@p.mrcs", "rlnClassNumber": "1"} for i in range(1, 6)]
    optics = [{"rlnOpticsGroup": "1", "rlnVoltage": "300.0"}]
    path.write_text(star_block("optics", optics) + star_block("particles", rows))
    return path


def test_tables_are_counted(data_star: Path) -> None:
    found = star.tables(data_star)
    assert {name: table.rows for name, table in found.items()} == {"optics": 1, "particles": 5}
    assert found["particles"].labels == ("rlnImageName", "rlnClassNumber")


def test_label_value_pairs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.star"
    path.write_text("\ndata_model_general\n\n_rlnNrClasses    3\n_rlnPixelSize  7.0\n \n")
    assert star.values(path, "model_general") == {"rlnNrClasses": "3", "rlnPixelSize": "7.0"}
    assert list(star.rows(path, "model_general", "rlnNrClasses")) == [("3",)]


def test_rows_are_given_by_label_in_any_order(data_star: Path) -> None:
    first = next(star.rows(data_star, "particles", "rlnClassNumber", "rlnImageName", "rlnNone"))
    assert first == ("1", "000001@p.mrcs", "?")


def test_particles_are_those_not_in_the_optics_table(data_star: Path) -> None:
    assert star.particles(data_star) == 5


def test_particles_of_a_file_of_relion_3_0(tmp_path: Path) -> None:
    path = tmp_path / "old.star"
    path.write_text("data_\n\nloop_\n_rlnImageName #1\n1@a.mrcs\n2@a.mrcs\n")
    assert star.particles(path) == 2


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    path = tmp_path / "none.star"
    path.write_text("data_particles\n\nloop_\n_rlnImageName #1\n \n")
    assert star.particles(path) == 0


def test_every_cut_is_seen(data_star: Path) -> None:
    """Also a cut between two rows, which RELION itself goes on from without a word."""
    whole = data_star.read_bytes()
    for length in range(len(whole)):
        if whole[:length].endswith(star.TABLE_END):
            continue  # between two tables: for those who know which tables there must be
        data_star.write_bytes(whole[:length])
        with pytest.raises(Torn, match="cut short"):
            star.tables(data_star)


def test_a_row_with_a_hole_is_refused(data_star: Path) -> None:
    """As a power cut leaves it: the right size, zeros in the middle."""
    whole = data_star.read_bytes()
    data_star.write_bytes(whole.replace(b"000003@p.mrcs", bytes(13)))
    with pytest.raises(Torn, match="zero bytes"):
        star.tables(data_star)


def test_a_row_with_too_few_fields_is_refused(data_star: Path) -> None:
    data_star.write_text(data_star.read_text().replace("000003@p.mrcs 1", "000003@p.mrcs"))
    with pytest.raises(Torn, match="row 3 of data_particles has 1 fields under 2 labels"):
        star.tables(data_star)


def test_a_quoted_field_is_one_field(tmp_path: Path) -> None:
    path = tmp_path / "quoted.star"
    path.write_text('data_jobs\n\nloop_\n_rlnName #1\n_rlnValue #2\n"my job" 3\nother ""\n \n')
    assert list(star.rows(path, "jobs", "rlnName", "rlnValue")) == [("my job", "3"), ("other", "")]


def test_a_missing_file_is_torn(tmp_path: Path) -> None:
    with pytest.raises(Torn, match="missing"):
        star.tables(tmp_path / "none.star")
    with pytest.raises(Torn):
        star.particles(tmp_path / "none.star")


def test_a_missing_table_is_named(data_star: Path) -> None:
    with pytest.raises(Torn, match="no table data_movies"):
        star.row_count(data_star, "movies")
