"""The gateway's routes over sockets: forwarding, refusals, responses."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from testkit import plain
from testkit.servers import served
from tests.gateway.conftest import make_settings
from tests.gateway.stand_in import STATUS, StandIn

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
B64 = base64.b64encode(PNG).decode()
HELLO = {"messages": [{"role": "user", "content": "hi"}]}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": HELLO,
    "/v1/images/generations": {"prompt": "p"},
    "/v1/images/edits": {"prompt": "p", "image": B64},
    "/v1/vision/analyze": {"image": B64},
}


def error(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code", "source"}
    assert answer.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    ("path", "alias"), list(zip(VALID, ["a", "b", "b", "a"], strict=True)), ids=lambda value: str(value)
)
def test_a_valid_request_goes_to_the_default_of_its_route_byte_for_byte(
    client: httpx.Client, manager: StandIn, path: str, alias: str
) -> None:
    body = json.dumps({**VALID[path], "unknown": "한글"}, ensure_ascii=False, indent=3).encode()
    answer = client.post(path, content=body)
    assert answer.status_code == 200
    assert answer.json() == {"echo": len(body)}
    (received,) = manager.received
    assert received.path == f"/workers/{alias}{path}"
    assert received.body == body


@pytest.mark.parametrize("name", ["a", "alpha", "org/alpha"])
def test_a_model_is_found_by_alias_and_by_its_other_names(
    client: httpx.Client, manager: StandIn, name: str
) -> None:
    assert client.post("/v1/chat/completions", json={**HELLO, "model": name}).status_code == 200
    assert manager.received[0].path.startswith("/workers/a/")


def test_an_unknown_model_is_a_404_that_lists_the_models(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json={**HELLO, "model": "gpt-9"})
    assert answer.status_code == 404
    problem = error(answer)
    assert (problem["code"], problem["param"]) == ("model_not_found", "model")
    assert "gpt-9" in problem["message"]
    assert "a, b, kontext" in problem["message"]


def test_a_model_of_the_wrong_kind_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/images/generations", json={"prompt": "p", "model": "a"})
    assert answer.status_code == 400
    assert error(answer)["param"] == "model"


BAD = [
    ("/v1/chat/completions", {}, "messages"),
    ("/v1/chat/completions", {"messages": 5}, "messages"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "!"}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    ("/v1/chat/completions", {**HELLO, "tool_choice": "required"}, "tool_choice"),
    ("/v1/chat/completions", {**HELLO, "top_logprobs": 2}, "top_logprobs"),
    ("/v1/chat/completions", {**HELLO, "response_format": {"type": "xml"}}, "response_format.type"),
    ("/v1/images/generations", {}, "prompt"),
    ("/v1/images/generations", {"prompt": "p", "size": "0x0"}, "size"),
    ("/v1/images/generations", {"prompt": "p", "size": "4096x4096"}, "size"),
    ("/v1/images/generations", {"prompt": "p", "size": "big"}, "size"),
    ("/v1/images/edits", {"prompt": "p"}, "image"),
    ("/v1/images/edits", {"prompt": "p", "image": "%%%"}, "image"),
    ("/v1/images/edits", {"prompt": "p", "image": base64.b64encode(b"text").decode()}, "image"),
    ("/v1/images/edits", {"prompt": "p", "image": B64, "strength": 2}, "strength"),
    ("/v1/images/edits", {"prompt": "p", "image": B64, "mask": "%%%"}, "mask"),
    ("/v1/images/edits", {"prompt": "p", "image": [B64, B64]}, "image"),
    ("/v1/images/edits", {"prompt": "p", "image": B64, "model": "kontext", "strength": 1}, "strength"),
    ("/v1/images/edits", {"prompt": "p", "image": B64, "negative_prompt": "x"}, "negative_prompt"),
    ("/v1/images/generations", {"prompt": "p", "negative_prompt": "blurry"}, "negative_prompt"),
    ("/v1/images/generations", {"prompt": "p", "model": "kontext"}, "model"),
    ("/v1/images/generations", {"prompt": "p", "background": "transparent"}, "background"),
    ("/v1/images/generations", {"prompt": "p", "quality": "best"}, "quality"),
    ("/v1/images/generations", {"prompt": "p", "output_format": "gif"}, "output_format"),
    ("/v1/images/generations", {"prompt": "p", "response_format": "xml"}, "response_format"),
    (
        "/v1/images/generations",
        {"prompt": "p", "response_format": "url", "stream": True},
        "response_format",
    ),
    ("/v1/vision/analyze", {"image": 5}, "image"),
    ("/v1/vision/analyze", {"image": "%%%"}, "image"),
    ("/v1/vision/analyze", {"image": B64, "task": "sing"}, "task"),
    ("/v1/vision/analyze", {"image": "http://example.org/x.png"}, "image"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_before_anything_is_loaded(
    client: httpx.Client, manager: StandIn, path: str, body: Any, param: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert error(answer)["param"] == param
    assert manager.received == []


@pytest.mark.parametrize("path", VALID)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"prompt": NaN}'])
def test_a_body_that_is_not_a_json_object_is_a_400(
    client: httpx.Client, path: str, body: bytes
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == 400
    error(answer)


def test_a_form_becomes_json_in_any_order_and_with_any_part_types(
    client: httpx.Client, manager: StandIn
) -> None:
    files = [("image", ("사진.png", PNG, "application/octet-stream"))]
    fields = {"prompt": "해질녘", "strength": "0.5", "n": "2", "model": "b", "user": ""}
    assert client.post("/v1/images/edits", data=fields, files=files).status_code == 200
    sent = json.loads(manager.received[0].body)
    assert sent == {"prompt": "해질녘", "strength": 0.5, "n": 2, "model": "b", "image": [B64]}
    assert manager.received[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]"])
def test_every_sdk_s_name_for_the_image_field_is_accepted(
    client: httpx.Client, manager: StandIn, name: str
) -> None:
    answer = client.post("/v1/images/edits", data={"prompt": "p"}, files=[(name, PNG)])
    assert answer.status_code == 200
    assert json.loads(manager.received[0].body)["image"] == [B64]


def test_a_form_s_mask_is_sent_as_base64(client: httpx.Client, manager: StandIn) -> None:
    files: Any = [("mask", ("mask.png", PNG, "application/octet-stream")), ("image", PNG)]
    assert client.post("/v1/images/edits", data={"prompt": "p"}, files=files).status_code == 200
    assert json.loads(manager.received[0].body) == {"prompt": "p", "image": [B64], "mask": B64}


def test_an_edit_reaches_the_requested_model_with_all_its_images(
    client: httpx.Client, manager: StandIn
) -> None:
    files = [("image[]", PNG)] * 3
    fields = {"prompt": "p", "model": "klein"}
    assert client.post("/v1/images/edits", data=fields, files=files).status_code == 200
    assert manager.received[0].path == "/workers/klein/v1/images/edits"
    assert json.loads(manager.received[0].body)["image"] == [B64] * 3


def test_a_chunked_form_with_its_files_first_is_read(client: httpx.Client, manager: StandIn) -> None:
    # As openai-node sends it: no Content-Length, the file before the fields.
    form = (
        b'--X\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + PNG + b"\r\n"
        b'--X\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nmake it sunset\r\n--X--\r\n'
    )
    pieces = (form[i : i + 777] for i in range(0, len(form), 777))
    headers = {"content-type": "multipart/form-data; boundary=X"}
    assert client.post("/v1/images/edits", content=pieces, headers=headers).status_code == 200
    assert json.loads(manager.received[0].body) == {"prompt": "make it sunset", "image": [B64]}


@pytest.mark.parametrize(
    ("fields", "files", "param"),
    [
        ({"prompt": "p"}, [("image", b"not an image")], "image"),
        ({"prompt": "p"}, [("other", PNG)], "image"),
        ({}, [("image", PNG)], "prompt"),
        ({"prompt": "p", "n": "two"}, [("image", PNG)], "n"),
        ({"prompt": "p"}, [("image[]", PNG), ("image[]", PNG)], "image"),
        ({"prompt": "p"}, [("image", PNG), ("mask", b"no image")], "mask"),
        ({"prompt": "p", "mask": "%%%"}, [("image", PNG)], "mask"),
        ({"prompt": "p", "negative_prompt": "x"}, [("image", PNG)], "negative_prompt"),
        ({"prompt": "p", "svg[model]": "x"}, [("image", PNG)], "svg"),
        ({"prompt[a]": "p"}, [("image", PNG)], "prompt[a]"),
        ({"prompt": "p"}, [("image[a]", PNG)], "image[a]"),
        ({"prompt": "p", "mask[0]": "p"}, [("image", PNG)], "mask[0]"),
        ({"prompt": "p"}, [("image", PNG), ("markup", PNG)], "markup"),
        ({"prompt": "p", "partial_images": "2"}, [("image", PNG)], "partial_images"),
        ({"prompt": "p", "size": "4096x4096"}, [("image", PNG)], "size"),
    ],
)
def test_a_faulty_form_names_its_field(
    client: httpx.Client, manager: StandIn, fields: Any, files: Any, param: str
) -> None:
    answer = client.post("/v1/images/edits", data=fields, files=files)
    assert answer.status_code == 400
    assert error(answer)["param"] == param
    assert manager.received == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("multipart/form-data", b"x"), ("multipart/form-data; boundary=X", b"--Y\r\nbroken")],
)
def test_a_broken_form_is_a_400(client: httpx.Client, content_type: str, body: bytes) -> None:
    answer = client.post("/v1/images/edits", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    error(answer)


def test_a_form_on_a_json_route_is_a_415(client: httpx.Client) -> None:
    answer = client.post("/v1/images/generations", files=[("image", PNG)])
    assert answer.status_code == 415


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_beyond_the_limit_is_a_413(
    tmp_path: Path, manager: StandIn, manager_url: str, chunked: bool
) -> None:
    settings = make_settings(tmp_path, manager_url, "gateway: {max_body_mb: 1}\n")
    body = json.dumps({**HELLO, "user": "x" * (1 << 20)}).encode()
    with served(create_app(settings)) as url:
        content: Any = (body[i : i + 65536] for i in range(0, len(body), 65536)) if chunked else body
        answer = plain.post(f"{url}/v1/chat/completions", content=content)
    assert answer.status_code == 413
    assert error(answer)["code"] == "payload_too_large"
    assert manager.received == []


def test_an_event_stream_arrives_chunk_by_chunk_and_leaving_closes_it_upstream(
    client: httpx.Client, manager: StandIn
) -> None:
    manager.mode = "stream"
    with client.stream("POST", "/v1/chat/completions", json={**HELLO, "stream": True}) as answer:
        first = next(answer.iter_lines())
        assert first == 'data: {"i": 0}'
    assert manager.client_left.wait(3)


def test_a_client_that_disconnects_before_the_response_closes_the_upstream_at_once(
    client: httpx.Client, manager: StandIn
) -> None:
    manager.mode = "hang"
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=HELLO, timeout=0.5)
    assert manager.client_left.wait(3)


def test_models_are_listed_with_their_state(client: httpx.Client) -> None:
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [(m["id"], m["object"], m["state"]) for m in body["data"]] == [
        ("a", "model", "ready"),
        ("b", "model", "unknown"),
        ("kontext", "model", "unknown"),
        ("klein", "model", "unknown"),
    ]
    able = {m["id"]: (m["capabilities"], m.get("max_images"), m.get("family")) for m in body["data"]}
    assert able["a"] == (["chat", "analyze"], None, None)
    assert able["b"] == (["generate", "edit", "strength", "mask"], 1, "flux1-schnell")
    assert able["kontext"][0] == ["edit", "instruction", "mask", "guidance"]
    assert able["klein"][1] == 4
    defaults = {m["id"]: m["default_for"] for m in body["data"]}
    assert defaults == {"a": ["chat", "analyze"], "b": ["generate", "edit"], "kontext": [], "klein": []}
    assert body["data"][0]["created"] == client.get("/v1/models/a").json()["created"]


@pytest.mark.parametrize("name", ["a", "alpha", "org%2Falpha", "org/alpha"])
def test_a_model_is_retrieved_by_any_of_its_names(client: httpx.Client, name: str) -> None:
    assert client.get(f"/v1/models/{name}").json()["id"] == "a"


def test_an_unknown_model_id_is_a_404(client: httpx.Client) -> None:
    answer = client.get("/v1/models/nope")
    assert answer.status_code == 404
    assert error(answer)["code"] == "model_not_found"


def test_the_tasks_are_listed_with_their_prompts(client: httpx.Client) -> None:
    body = client.get("/v1/vision/tasks").json()
    assert [task["id"] for task in body["data"]] == [
        "caption", "ocr", "describe", "analyze", "objects", "custom",
    ]  # fmt: skip
    assert body["default"] == "caption"
    assert body["models"] == {"a": [task["id"] for task in body["data"]]}


def test_status_is_the_manager_s(client: httpx.Client) -> None:
    assert client.get("/v1/system/status").json() == STATUS


@pytest.mark.parametrize(("verb", "control"), [("evict", "/stop/a"), ("warm", "/spawn/a")])
def test_evict_and_warm_steer_the_manager(
    client: httpx.Client, manager: StandIn, verb: str, control: str
) -> None:
    assert client.post(f"/v1/system/{verb}/alpha").status_code == 200
    assert manager.control == [control]
    assert client.post(f"/v1/system/{verb}/nope").status_code == 404


def test_a_manager_error_is_forwarded_with_its_retry_after(
    client: httpx.Client, manager: StandIn
) -> None:
    manager.mode = "fail"
    answer = client.post("/v1/system/warm/a")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert answer.json()["error"]["code"] == "load_failed"
    assert "x-secret" not in answer.headers


@pytest.mark.parametrize("path", ["/nope", "/v1/nope", "/v1/chat/completions/x"])
def test_an_unknown_route_is_404_in_openai_s_shape(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert error(answer)["source"] == "gateway"


def test_a_wrong_method_is_405_in_openai_s_shape(client: httpx.Client) -> None:
    answer = client.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    error(answer)


def test_without_a_manager_the_gateway_is_degraded(lonely: httpx.Client) -> None:
    assert lonely.get("/healthz").status_code == 200
    assert lonely.get("/healthz").json()["status"] == "degraded"
    assert lonely.get("/readyz").status_code == 503
    assert {m["state"] for m in lonely.get("/v1/models").json()["data"]} == {"unknown"}


@pytest.mark.parametrize("path", VALID)
def test_without_a_manager_a_request_is_a_503_with_retry_after(lonely: httpx.Client, path: str) -> None:
    answer = lonely.post(path, json=VALID[path])
    assert answer.status_code == 503
    assert error(answer)["code"] == "manager_unreachable"
    assert answer.headers["retry-after"] == "5"


def test_with_a_manager_the_gateway_is_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 200


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.process
def test_the_gateway_imports_no_model_library_and_no_other_tier() -> None:
    heavy = "mlx mflux transformers psutil manager workers PIL numpy torch"
    code = (
        "import sys, gateway.app, gateway.__main__;"
        f"print([m for m in sys.modules if m.partition('.')[0] in set({heavy.split()})])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
