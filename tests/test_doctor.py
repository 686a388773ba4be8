"""`ppt-ncf doctor`: what the machine offers, and known answers of the kernels."""

import hashlib
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from ncf_ppt import self_test
from ncf_ppt.self_test import SAMPLES_SHA256, sampled_histories
from ppt_commands.programs import main
from ppt_core.runs import machine
from ppt_core.threads import usable_cores
from tests import reference
from tests.command_line import CommandLine

ncf = CommandLine(main)


def test_the_known_samples_are_those_of_the_reference() -> None:
    histories = sampled_histories()
    n_samples = 5 * sum(map(len, histories))
    samples = [
        reference.training_sample(histories, 60, 4, seed=3, epoch=1, number=number) for number in range(n_samples)
    ]
    columns = [np.array(column).astype("<i8").tobytes() for column in zip(*samples, strict=True)]
    assert hashlib.sha256(b"".join(columns)).hexdigest() == SAMPLES_SHA256


def test_says_what_the_machine_offers_and_that_the_kernels_are_right() -> None:
    report = ncf.succeed("doctor")
    assert report["ok"]
    assert [(check["name"], check["ok"]) for check in report["checks"]] == [
        ("sampler", True),
        ("row-adam", True),
        ("packed network", True),
    ]
    assert report["versions"]["numpy"] == np.__version__
    assert report["cores"]["usable"] == usable_cores()
    assert report["engines"]["precision_auto"] in ("fp32", "bf16")
    assert any(report["caches"].values())


def broken() -> str:
    raise ArithmeticError("2 + 2 is 5")


def test_a_kernel_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "CHECKS", {"sums": broken, "words": lambda: "as they should"})
    result = ncf.call("doctor")
    assert result.exit_code == 1
    assert "sums: FAILED, ArithmeticError: 2 + 2 is 5" in result.stdout
    assert "words: ok, as they should" in result.stdout


def test_a_sampler_that_draws_others_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "SAMPLES_SHA256", "0" * 64)
    (check,) = [check for check in self_test.run_checks() if check.name == "sampler"]
    assert not check.ok
    assert "not 0000" in check.detail


def test_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("implicit", "onnx"):
            raise PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(machine, "version", version)
    monkeypatch.setattr(self_test, "CHECKS", {})
    result = ncf.call("doctor")
    assert result.exit_code == 1
    assert "implicit is missing; install this project again" in result.stderr
    assert "onnx none" in result.stdout
