import json
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_checks, gpu_run_checks
from tests.test_benchmarks import run


@pytest.mark.slow
def test_gpu_runs_every_part_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    table = run(gpu.main, "--quick", "--device", "cpu", "--out", str(out))
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == list(gpu.LIMITS)
    rows = [row for rows in parts.values() for row in rows]
    assert [row for row in rows if "failed" in row or row.get("ok") is False] == []
    assert sum("ok" in row for row in rows) > 40
    assert table.endswith(" checks; 0 rows failed\n")


def test_gpu_records_a_part_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scale: object) -> None:
        raise RuntimeError("CUDA error: out of luck\nand more")

    monkeypatch.setattr(gpu_run_checks, "PARTS", (fail, gpu_checks.rounding))
    out = tmp_path / "gpu.json"
    table = run(gpu.main, "--quick", "--device", "cpu", "--out", str(out), "--parts", "checks")
    first, *others = json.loads(out.read_text())["parts"]["checks"]
    assert first == {"row": "fail", "ok": False, "failed": "RuntimeError: CUDA error: out of luck"}
    assert len(others) == 3
    assert "FAILED" in table
    assert "4 checks; 1 rows failed" in table
