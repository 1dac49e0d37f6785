"""The stop-watch of the benchmarks."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import measure

STAR = """
data_optics

loop_
_rlnOpticsGroup #1
1

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
1@a.mrcs 10
2@a.mrcs 20
3@a.mrcs 30

"""


def test_cpu_time_is_that_of_the_command_and_its_children(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    cost = measure.run([sys.executable, "-c", script], tmp_path, tmp_path / "log")
    assert 0.3 <= cost.cpu < 2


def test_peak_memory_is_what_the_command_held_at_most(tmp_path):
    script = "import time; held = bytearray(200 * 2**20); time.sleep(0.2)"
    cost = measure.run([sys.executable, "-c", script], tmp_path, tmp_path / "log")
    assert 200 / 1024 < cost.peak_memory < 260 / 1024


def test_a_failing_command_raises_with_the_end_of_its_log(tmp_path):
    with pytest.raises(RuntimeError, match="exit code 3(.|\n)*no such luck"):
        measure.run([sys.executable, "-c", "print('no such luck'); exit(3)"], tmp_path, tmp_path / "log")


def test_start_up_is_taken_off_both_times_but_not_off_memory():
    net = measure.Cost(10.0, 8.0, 1.5).minus(measure.Cost(2.0, 3.0, 1.0))
    assert net == measure.Cost(8.0, 5.0, 1.5)


def test_first_rows_keeps_optics_and_the_first_particles(tmp_path):
    star = tmp_path / "particles.star"
    star.write_text(STAR)
    lines = measure.first_rows(star, 2, tmp_path / "few.star").read_text().splitlines()
    assert [line for line in lines if "@" in line] == ["1@a.mrcs 10", "2@a.mrcs 20"]
    assert "data_optics" in lines


def test_a_list_may_name_every_particle_several_times(tmp_path):
    star = tmp_path / "particles.star"
    star.write_text(STAR)
    lines = measure.repeated_rows(star, 3, tmp_path / "many.star").read_text().splitlines()
    assert [line for line in lines if "@" in line] == ["1@a.mrcs 10", "2@a.mrcs 20", "3@a.mrcs 30"] * 3


def test_the_cost_of_an_image_is_the_slope_of_cost_against_images():
    images = [50, 50, 1000, 1000, 5000, 5000]
    noise = [0.1, -0.1] * 3
    line = measure.fit_line(images, [measure.Cost(2 + 0.001 * n + e, 0, 0) for n, e in zip(images, noise, strict=True)])
    assert (line.start_up, line.per_image) == pytest.approx((2, 0.001))
    # sqrt(sum of squared residuals / (6 - 2) / sum of squared distances of images from their mean)
    assert line.error == pytest.approx((0.06 / 4 / 27_603_333.33) ** 0.5, rel=1e-3)


def test_a_slope_lost_in_the_scatter_of_start_up_is_a_bound_and_not_a_rate():
    assert measure.Line(2.0, 0.001, 0.0001).rate_text == "1,000 ± 100"
    assert measure.Line(2.0, 0.0001, 0.0002).rate_text == "> 2,000"
