"""What the command line does when nothing is said is what the library does."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click
import pytest

from data_prep.images.image_folders import prepare_image_folders
from data_prep.ratings.any_source import prepare_source
from ncf_ppt.baselines import fit_baseline
from ncf_ppt.evaluation import evaluate
from ncf_ppt.model import NCFConfig
from ncf_ppt.trained import TrainedNCF
from ncf_ppt.training_config import NCFTrainingConfig
from ppt_commands.programs import main, vision
from ppt_core.study.plan import StudyPlan
from vision_ppt.networks import NetworkConfig
from vision_ppt.trained import TrainedImageNetwork
from vision_ppt.training import VisionTrainingConfig


def of_config(*configs: type) -> dict[str, Any]:
    return {field.name: field.default for config in configs for field in fields(config)}


def of_function(function: Callable[..., Any]) -> dict[str, Any]:
    found = inspect.signature(function).parameters.items()
    return {name: each.default for name, each in found if each.default is not inspect.Parameter.empty}


DEFAULTS: dict[tuple[click.Group, str], Mapping[str, Any]] = {
    (main, "prepare"): of_function(prepare_source),
    (main, "train"): of_config(NCFConfig, NCFTrainingConfig),
    (main, "evaluate"): of_function(TrainedNCF.evaluate),
    (main, "recommend"): of_function(TrainedNCF.recommend),
    (main, "baseline"): of_function(evaluate) | of_function(fit_baseline),
    (main, "compare"): of_function(TrainedNCF.compare),
    (main, "pack"): of_function(TrainedNCF.pack),
    (main, "export-embeddings"): of_function(TrainedNCF.export_embeddings),
    (vision, "train"): of_config(NetworkConfig, VisionTrainingConfig),
    (vision, "evaluate"): of_function(TrainedImageNetwork.evaluate),
    (vision, "pack"): of_function(TrainedImageNetwork.pack),
    (vision, "prepare"): of_function(prepare_image_folders),
}
# Options without a default of their own: the library's follows from the network, the data or the source.
FROM_ELSEWHERE = {"epochs", "batch_size", "learning_rate", "recipe", "image_size", "n_users", "n_items"}


@pytest.mark.parametrize(("group", "name"), DEFAULTS, ids=lambda value: getattr(value, "name", value))
def test_defaults_of_commands_are_the_library_s(group: click.Group, name: str) -> None:
    command, library = group.commands[name], DEFAULTS[group, name]
    parent = click.Context(group, **group.context_settings)  # or a command would keep that -h is none of its options
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    compared = 0
    for option in command.params:
        if option.name not in library or option.name == "users":  # those are asked for by --all
            continue
        default = context.params[option.name]
        expected = library[str(option.name)]
        if option.name == "layers":
            default = tuple(map(int, str(default).split(",")))
        if option.name == "warm_start":
            default = None if default == "none" else default
        if default is None and (expected is None or (group is vision and option.name in FROM_ELSEWHERE)):
            continue
        assert default == expected, f"{name} {option.opts[0]}"
        compared += 1
    assert compared or name == "pack" or (group is vision and name == "evaluate")


@pytest.mark.parametrize("group", [main, vision])
def test_defaults_of_a_study_are_the_plan_s(group: click.Group) -> None:
    study = group.commands["study"]
    assert isinstance(study, click.Group)
    parent = click.Context(group, **group.context_settings)
    context = study.commands["run"].make_context("run", ["--data", "data", "--out", "study"], parent=parent)
    assert StudyPlan(**{name: context.params[name] for name in of_config(StudyPlan)}) == StudyPlan()
