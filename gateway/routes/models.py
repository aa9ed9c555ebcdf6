"""Models and analysis tasks."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from contracts.capabilities import ROUTES, capabilities
from contracts.control import ModelStatus
from contracts.settings import Settings
from contracts.settings.models import ImageSettings
from contracts.tasks import DEFAULT_TASK, TASKS
from contracts.wire.analysis import TaskList, TaskObject
from contracts.wire.models import ModelList, ModelObject
from gateway.routing import default_model, find_alias

router = APIRouter()

ModelName = Annotated[str, Path(description="Alias, or another name of the model.")]

UNKNOWN = "unknown"  # a model's state while the manager is unreachable


def model_object(
    settings: Settings, alias: str, status: ModelStatus | None, created: int
) -> ModelObject:
    model = settings.models[alias]
    image_fields: dict[str, Any] = {}
    if isinstance(model, ImageSettings):
        image_fields = {
            "family": model.family,
            "max_images": model.traits.max_images,
            "max_pixels": model.max_pixels,
        }
    return ModelObject(
        id=alias,
        created=created,
        kind=model.kind,
        path=model.path,
        revision=(status.revision if status else "") or model.revision,
        names=model.names,
        capabilities=capabilities(model),
        default_for=[route for route in ROUTES if default_model(settings, route) == alias],
        memory_gb=model.memory_gb,
        state=status.status if status else UNKNOWN,
        **image_fields,
    )


@router.get("/v1/models", tags=["models"], response_model_exclude_none=True)
async def list_models(request: Request) -> ModelList:
    """List all models with their state."""
    state = request.app.state
    statuses = await state.manager.models()
    return ModelList(
        data=[
            model_object(state.settings, alias, statuses.get(alias), state.created)
            for alias in state.settings.models
        ]
    )


# A path parameter: SDKs send the slash of "org/name" as %2F, which arrives decoded.
@router.get("/v1/models/{name:path}", tags=["models"], response_model_exclude_none=True)
async def retrieve_model(request: Request, name: ModelName) -> ModelObject:
    """Get one model by its alias or another name."""
    state = request.app.state
    alias = find_alias(state.settings, name)
    statuses = await state.manager.models()
    return model_object(state.settings, alias, statuses.get(alias), state.created)


@router.get("/v1/vision/tasks", tags=["vision"])
async def list_tasks(request: Request) -> TaskList:
    """List the tasks of ``POST /v1/vision/analyze``.

    Lists each task with its prompt, and the tasks of each model.
    """
    models = request.app.state.settings.models
    return TaskList(
        default=DEFAULT_TASK,
        data=[
            TaskObject(id=task.name, description=task.description, prompt=task.prompt)
            for task in TASKS.values()
        ],
        models={
            alias: list(TASKS) for alias, model in models.items() if "analyze" in capabilities(model)
        },
    )
