import pytest
import torch

from ppt_core.device import check_device, choose_arithmetic


def test_a_device_that_is_not_there_is_refused() -> None:
    assert check_device("cpu") == "cpu"
    for name in ("gpu", "cuda:x", "cpu:3", "meta", ""):
        with pytest.raises(ValueError, match=r"^device is "):
            check_device(name)
    n_devices = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"^device is 'cuda:{n_devices}', but "):
        check_device(f"cuda:{n_devices}")


def test_automatic_arithmetic_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_arithmetic("fp32", "cpu") == "fp32"
    assert choose_arithmetic("bf16", "cpu") == "bf16"
    for has_amx, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has_amx=has_amx: has_amx)
        assert choose_arithmetic("auto", "cpu") == expected
