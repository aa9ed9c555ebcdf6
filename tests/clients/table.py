"""The clients: how each is started and installed, and which scenarios it does not support.

Rules: a client runs every scenario, or ``cannot`` has the reason, which the docs show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testkit.client_environments import FOLDER, python_of
from tests.clients.scenarios import SCENARIOS, Scenario


@dataclass(frozen=True)
class Client:
    """``script``: in ``scripts/``. ``environment``: its lock file and package folder; "": the project's
    own. ``packages``: those whose versions the docs list. ``unseeded``: scenarios whose images vary,
    because the client can't send a seed. ``through``: the proxy between it and our stack.
    """

    name: str
    title: str
    script: str
    environment: str = ""
    packages: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)
    unseeded: frozenset[str] = frozenset()
    through: str = ""

    @property
    def is_node(self) -> bool:
        return self.script.endswith(".mjs")

    @property
    def command(self) -> list[str]:
        if self.is_node:
            return ["node", str(FOLDER / "scripts" / self.script)]
        return [python_of(self.environment), "-m", f"tests.clients.scripts.{self.script}"]


def _names(*prefixes: str) -> list[str]:
    return [s.name for s in SCENARIOS if s.name.startswith(prefixes)]


def _each(why: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, why)


_RESPONSES = ("responses", "responses_stream")
_MODELS = ("list_models", "retrieve_model")
_IMAGES = (*_names("generate", "edit"), "bad_size", "too_large_form", "too_many")
_STREAMED = "does not stream images"
_FORMS = "edits with forms only"
_PLAIN = "uses only `/v1/chat/completions`"

CLIENTS = (
    Client("openai-python", "openai-python", "openai_sync", packages=("openai",)),
    Client("openai-python-async", "openai-python, async", "openai_async", packages=("openai",)),
    Client("openai-node", "openai-node", "openai_node.mjs", "node", ("openai",)),
    Client(
        "ai-sdk-compatible",
        "AI SDK, openai-compatible",
        "ai_sdk.mjs",
        "node",
        ("ai", "@ai-sdk/openai-compatible"),
        ("compatible",),
        cannot={
            **_each("has no call for it", *_MODELS),
            **_each(_PLAIN, *_RESPONSES),
            "generate_stream": _STREAMED,
            "edit_json": _FORMS,
        },
    ),
    Client(
        "ai-sdk-openai",
        "AI SDK, openai",
        "ai_sdk.mjs",
        "node",
        ("ai", "@ai-sdk/openai"),
        ("openai",),
        cannot={
            **_each("has no call for it", *_MODELS),
            "generate_stream": _STREAMED,
            "edit_json": _FORMS,
        },
        unseeded=frozenset(_names("generate", "edit")),
    ),
    Client(
        "pydantic-ai",
        "pydantic-ai",
        "pydantic_agents",
        "pydantic-ai",
        ("pydantic-ai-slim", "openai"),
        cannot={**_each("has no call for it", *_MODELS), **_each("has no call for it", *_IMAGES)},
    ),
    Client(
        "langchain",
        "LangChain",
        "langchain_chat",
        "langchain",
        ("langchain-openai", "openai"),
        cannot={**_each("has no call for it", *_MODELS), **_each("has no call for it", *_IMAGES)},
    ),
    Client(
        "litellm",
        "LiteLLM",
        "litellm_calls",
        "litellm",
        ("litellm", "openai"),
        cannot={
            **_each("has no call for it", *_MODELS),
            "generate_stream": _STREAMED,
            "edit_json": _FORMS,
        },
    ),
    Client(
        "open-webui",
        "Open WebUI, its requests",
        "open_webui",
        unseeded=frozenset(_names("edit")),
        cannot={
            "retrieve_model": "requests only the list",
            "json_schema": "does not request it",
            **_each(_PLAIN, *_RESPONSES),
            "generate_stream": _STREAMED,
            "edit_mask": "sends no mask",
            "edit_json": _FORMS,
        },
    ),
    Client(
        "litellm-proxy",
        "LiteLLM's proxy in front",
        "openai_sync",
        cannot={
            **_each("lists the names in its own config", *_MODELS),
            "wrong_key": "has its own keys",
            "generate_stream": _STREAMED,
            "time_out": "continues its request when its client disconnects",
            "edit_json": _FORMS,
        },
        through="litellm",
    ),
)


def does(client: Client, scenario: Scenario) -> bool:
    return scenario.name not in client.cannot
