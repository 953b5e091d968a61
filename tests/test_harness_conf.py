from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from harness.ask.arguments import flags_first, quote_numbers
from harness.ask.check import check
from harness.ask.schema import ROOT, register, to_spec, to_tracking
from harness.values.errors import UserError
from harness.values.spec import BACKENDS, PRECISIONS

CONF = ROOT / "conf"
FILES = sorted(CONF.glob("**/*.yaml"))
OPTIONS = [path for path in FILES if len(path.relative_to(CONF).parts) == 2]
CHOICES = [path for path in OPTIONS if path.parent.name != "experiment"]


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*arguments: str) -> DictConfig:
    return compose("config", overrides=quote_numbers(list(arguments), CONF))


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_option_composes_to_a_valid_spec(path: Path) -> None:
    spec = check(to_spec(composed(f"{path.parent.name}={path.stem}")))
    if path.parent.name == "contender":
        assert spec.contender == path.stem


@pytest.mark.parametrize("path", sorted(CONF.glob("experiment/*.yaml")), ids=lambda path: path.stem)
def test_every_job_of_every_experiment_is_valid(path: Path) -> None:
    cfg = compose("config", overrides=[f"+experiment={path.stem}"], return_hydra_config=True)
    contenders = cfg.hydra.sweeper.params.contender.split(",")
    found = [
        check(to_spec(composed(f"+experiment={path.stem}", f"contender={c}"))).contender for c in contenders
    ]
    assert found == contenders and found[0] == "hf-fp32"
    assert {f"op-{precision}" for precision in PRECISIONS} <= set(found)
    assert to_tracking(composed(f"+experiment={path.stem}")).experiment == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_opens_with_the_command_that_uses_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    comments = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    commands = [line for line in comments if line.startswith(("# python -m harness", "# mlflow ui"))]
    assert commands, "no command"
    assert path.stem in " ".join(commands) or path.parent.name in ("conf", "host", "tracking", "help")


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ((), "paraphrase"),
        (("model=bert-base-mrpc",), "mrpc"),
        (("model=bert-large",), "mrpc"),
        (("model=minilm", "data=mrpc"), "mrpc"),
        (("model=bert-base", "data=paraphrase"), "paraphrase"),
    ],
)
def test_the_data_is_mrpc_unless_the_model_or_the_user_says_otherwise(
    arguments: tuple[str, ...], data: str
) -> None:
    assert composed(*arguments).data.name == data


def test_the_precisions_are_those_of_the_contract() -> None:
    assert {path.stem for path in CONF.glob("precision/*")} == set(PRECISIONS)
    assert {path.stem for path in CONF.glob("backend/*")} == set(BACKENDS)


def test_a_count_replaces_the_seconds_of_the_option() -> None:
    spec = check(to_spec(composed("run_time=standard", "run_time.iterations=3")))
    assert (spec.run_time.seconds, spec.run_time.iterations) == (None, 3)
    assert to_spec(composed("run_time=standard")).run_time.seconds == 60.0


@pytest.mark.parametrize("experiment", sorted(path.stem for path in CONF.glob("experiment/*.yaml")))
def test_the_run_time_of_an_experiment_can_be_chosen(experiment: str) -> None:
    assert to_spec(composed(f"+experiment={experiment}", "run_time=smoke")).run_time.seconds == 1.0


def test_the_quickstart_is_brief() -> None:
    assert to_spec(composed("+experiment=quickstart")).run_time.seconds == 3.0
    counted = to_spec(composed("+experiment=quickstart", "run_time.iterations=5")).run_time
    assert (counted.seconds, counted.iterations) == (None, 5)


def test_a_load_about_single_queries_brings_their_batch_and_the_user_may_say_otherwise() -> None:
    assert check(to_spec(composed("load=single_stream"))).batch.size == 1
    assert check(to_spec(composed("load=server", "load.rate=5", "batch=8"))).batch.size == 8
    assert check(to_spec(composed("load=server", "+experiment=bert-large-throughput"))).load.bound_ms == 100.0


def test_lengths_are_a_name_or_a_list() -> None:
    assert check(to_spec(composed("batch.lengths=[16,64]"))).batch.lengths == [16, 64]
    assert check(to_spec(composed("batch.lengths=mrpc-like"))).batch.lengths == "mrpc-like"


@pytest.mark.parametrize(
    "wrong", ["precision=fp99", "model=gpt", "batch.size=abc", "nogroup=1", "batch.length=1"]
)
def test_what_no_schema_knows_fails_while_composing(wrong: str) -> None:
    with pytest.raises(HydraException):
        composed(wrong)


def test_an_appended_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch\.sizes=3: .*Use one of size"):
        to_spec(composed("+batch.sizes=3"))


def test_numbers_are_quoted_as_options_only() -> None:
    given = ["batch=1,4", "batch.size=4", "-m", "batch=glob(*)", "precision=fp32", "model=minilm,bert-base"]
    expected = ['batch="1","4"', *given[1:]]
    assert quote_numbers(given, CONF) == expected


def test_the_multirun_flag_may_stand_anywhere() -> None:
    assert flags_first(["model=minilm", "-m", "batch=1,4"]) == ["-m", "model=minilm", "batch=1,4"]


def test_the_package_is_the_pinned_one() -> None:
    spec = to_spec(composed("model=minilm")).model
    recorded = {str(file) for file in metadata.files(spec.package or "") or []}
    assert {f"{spec.package_folder}/{name}" for name in spec.package_files} <= recorded


@pytest.mark.parametrize(
    ("typed", "bounds"),
    [
        ("precision.target=0.999", {"cosine_mean": 0.999}),
        ("precision.target={top10:0.98,flips:0}", {"top10": 0.98, "flips": 0.0}),
    ],
)
def test_a_target_is_a_number_or_a_mapping(typed: str, bounds: dict[str, float]) -> None:
    assert to_spec(composed("precision=bf16_qint8", typed)).target == bounds
    assert to_spec(composed("precision=bf16_qint8")).target == {}


@pytest.mark.parametrize("typed", ["=high", "={top3:0.9}", "=true"])
def test_any_other_target_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match=r"precision\.target=.*Bound some of cosine_mean"):
        to_spec(composed("precision=bf16_qint8", f"precision.target{typed}"))
