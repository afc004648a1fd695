from pathlib import Path

from raycol.core.config import Config
from raycol.jobs.submit import SubmitConfig
from raycol.jobs.verbs import VERBS, uris_of
from raycol.training.config import TrainConfig
from tests.conftest import PROJECT


def test_every_entry_point_is_a_verb_and_every_verb_has_one() -> None:
    assert VERBS.keys() == {path.stem for path in (PROJECT / "jobs").glob("*.py")}


def test_every_path_setting_is_classified() -> None:
    """A new setting that holds a path must be listed as read or written."""
    models = {"model", "teacher", "cross_encoder", "guide"}
    for name, verb in VERBS.items():
        known = {*verb.writes, *verb.reads, *verb.collections, *verb.models}
        named = {
            field
            for field, info in verb.config.model_fields.items()
            if "Path" in str(info.annotation) or "Source" in str(info.annotation) or "_parse_location" in str(info)
        }
        assert named <= known, name
        assert set(verb.models) == models & verb.config.model_fields.keys(), name
        assert {*verb.positional, *known} <= verb.config.model_fields.keys(), name


def test_submit_settings_do_not_shadow_the_verbs() -> None:
    for verb in VERBS.values():
        assert not SubmitConfig.model_fields.keys() & verb.config.model_fields.keys()


def test_example_sources_hold_several_uris() -> None:
    data = [{"path": "a", "queries": "q"}, {"path": "b", "documents": "d"}]
    config: Config = TrainConfig.load(None, {"model": "m", "data": data, "out": Path("o")})
    uris = list(uris_of(config, ("data", "out", "storage")))
    assert uris == [("data", "a"), ("data", "q"), ("data", "b"), ("data", "d"), ("out", "o")]
