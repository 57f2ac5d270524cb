"""Experiments with one thing changed: specs are frozen, so each change makes new ones."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from fusekit.config.reference import Reference
from fusekit.config.spec import Experiment

M = TypeVar("M", bound=BaseModel)


def changed(spec: M, **fields: Any) -> M:
    """The same spec with other fields, checked. Raises `SpecError`."""
    return type(spec)(
        **{**{name: getattr(spec, name) for name in type(spec).model_fields}, **fields}
    )


def with_sections(experiment: Experiment, **sections: Any) -> Experiment:
    """The experiment with other sections; references between them are for `resolve` to check."""
    return experiment.model_copy(update=sections)


def with_train(experiment: Experiment, **fields: Any) -> Experiment:
    """The experiment with other fields of `train`."""
    return with_sections(experiment, train=experiment.train.model_copy(update=fields))


def redirected(spec: M, instead: Mapping[str, Reference]) -> M:
    """The spec with references to whole nodes replaced by name."""

    def one(value: Any) -> Any:
        if isinstance(value, Reference) and value.point is None and not value.ports:
            return instead.get(value.name, value)
        if isinstance(value, dict):
            return {key: one(item) for key, item in value.items()}
        return tuple(one(item) for item in value) if isinstance(value, tuple) else value

    fields = {name: getattr(spec, name) for name in type(spec).model_fields}
    after = {name: one(value) for name, value in fields.items()}
    return spec if after == fields else type(spec)(**after)
