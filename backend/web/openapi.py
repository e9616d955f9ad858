"""The OpenAPI document of the routes; ``tests/operate`` compares it with what they do.

It constrains requests only where the service refuses them: Label Studio's bodies are described
by the recorded ones in ``tests/captures``, and what else they hold is ignored.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def document() -> Json:
    """OpenAPI 3.0, as a JSON value."""
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "SAM 2 for Label Studio",
            "version": "1",
            "description": "A Label Studio ML backend, and its jobs.",
        },
        "security": [{"basic": []}, {"bearer": []}],
        "paths": {**_probes(), **_contract(), **_jobs(), **_training(), **_diagnostics()},
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": _schemas(),
        },
    }


def _probes() -> Json:
    health = _get("root", "Whether to talk to this address", _ref("Health"), down="Health")
    state = _object(status={"enum": ["loading", "ready", "failed"]}, detail=_text())
    ready = _get("ready", "Whether the model answers", state)
    ready["responses"]["503"] = _reply("It is loading, or failed to; detail says which", state)
    metrics = _get("metrics", "Prometheus metrics", None)
    metrics["responses"]["200"]["content"] = {"text/plain": {"schema": _text()}}
    own = _get("openapi", "This document", {"type": "object"})
    return {
        "/": {"get": {**health, "security": []}},
        "/health": {"get": {**health, "operationId": "health", "security": []}},
        "/ready": {"get": {**ready, "security": []}},
        "/metrics": {"get": _closed(metrics)},
        "/openapi.json": {"get": _closed(own)},
    }


def _contract() -> Json:
    setup = _post(
        "setup",
        "Label Studio connects, or shows a project",
        _object(schema=_text(), required=["schema"]),
        _object(model_version=_text(), problems=_list(_text())),
    )
    setup["responses"]["503"] = _error("The model could not be loaded")
    predict = _post(
        "predict",
        "Masks for a click, a box, a command or whole tasks",
        _object(tasks=_list({"type": "object"}), required=["tasks"]),
        _object(results=_list({}), required=["results"]),
    )
    validate = _post(
        "validate",
        "What is wrong with a label config",
        _object(config=_text(), required=["config"]),
        _object(valid={"type": "boolean"}, problems=_list(_text())),
    )
    webhook = _post(
        "webhook",
        "An event of Label Studio; START_TRAINING may fine-tune the model",
        {},
        None,
        done="201",
    )
    webhook["requestBody"]["required"] = False
    webhook["responses"]["201"] = _reply("Taken", _object(status={"enum": ["ok"]}, detail=_text()))
    del webhook["responses"]["400"]
    versions = _get("versions", "Model versions", _object(versions=_list(_text())))
    return {
        "/setup": {"post": _closed(setup)},
        "/predict": {"post": _closed(predict)},
        "/validate": {"post": _closed(validate)},
        "/webhook": {"post": _closed(webhook)},
        "/versions": {"get": _closed(versions)},
    }


def _jobs() -> Json:
    name = {"name": "job_id", "in": "path", "required": True, "schema": _text()}
    filtered = {"name": "unfinished", "in": "query", "schema": _text()}
    every = _get("jobs", "Tracking jobs, the newest first", _object(jobs=_list(_ref("Job"))))
    one = _get("one_job", "One job", _ref("Job"))
    cancel = _get("cancel_job", "Stop a job within the frame it is at", _ref("Job"))
    for each in (one, cancel):
        each["responses"]["404"] = _error("There is no such job")
    return {
        "/jobs": {"get": {**_closed(every), "parameters": [filtered]}},
        "/jobs/{job_id}": {"parameters": [name], "get": _closed(one)},
        "/jobs/{job_id}/cancel": {"parameters": [name], "post": _closed(cancel)},
    }


def _diagnostics() -> Json:
    level = {"enum": ["ok", "warning", "broken"]}
    finding = _object(level=level, subject=_text(), text=_text(), fix=_text())
    answer = _object(ok={"type": "boolean"}, findings=_list(finding))
    found = _get("diagnostics", "What is wrong with the set-up, and how to mend it", answer)
    found["responses"] |= {
        "400": _error("project or task is no number"),
        "403": _error("No credentials are set, so everybody could ask"),
        "429": _error("Somebody else has just asked"),
    }
    number = {"type": "integer", "minimum": 0}
    found["parameters"] = [
        {"name": name, "in": "query", "schema": number} for name in ("project", "task")
    ]
    return {"/diagnostics": {"get": _closed(found)}}


def _training() -> Json:
    name = {"name": "project", "in": "path", "required": True, "schema": _text()}
    jobs = _object(jobs=_list(_ref("FinetuneJob")))
    every = _get("trainings", "The last fine-tuning of every project, the newest first", jobs)
    one = _get("one_training", "The last fine-tuning of a project", _ref("FinetuneJob"))
    cancel = _get("cancel_training", "End a fine-tuning", _ref("FinetuneJob"))
    for each in (one, cancel):
        each["responses"]["404"] = _error("There was none")
    return {
        "/train": {"get": _closed(every)},
        "/train/{project}": {"parameters": [name], "get": _closed(one)},
        "/train/{project}/cancel": {"parameters": [name], "post": _closed(cancel)},
    }


def _schemas() -> Json:
    number = {"type": "number"}
    count = {"type": "integer", "minimum": 0}
    return {
        "Error": _object(error=_text(), detail=_text(), required=["error", "detail"]),
        "Health": _object(
            status={"enum": ["UP", "DOWN"]},
            model_class=_text(),
            model_version=_text(),
            model_state=_text(),
            detail=_text(),
            required=["status", "model_version"],
        ),
        "FinetuneJob": _object(
            project=count,
            state={"enum": ["queued", "running", "done", "failed", "cancelled"]},
            message=_text(),
            stage=_text(),
            pictures=count,
            step=count,
            steps=count,
            curve=_list({"type": "object"}),
            version={**_text(), "nullable": True},
            created=number,
            updated=number,
        ),
        "Job": _object(
            id=_text(),
            state={"enum": ["queued", "running", "done", "cancelled", "failed"]},
            done=count,
            total=count,
            message=_text(),
            project={**_text(), "nullable": True},
            task={},
            created=number,
            updated=number,
            required=["id", "state", "done", "total"],
        ),
    }


def _text() -> Json:
    return {"type": "string"}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _object(*, required: list[str] | None = None, **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": required or [*properties]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _reply(description: str, schema: Json | None) -> Json:
    if schema is None:
        return {"description": description}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> Json:
    return _reply(description, _ref("Error"))


def _get(name: str, summary: str, answer: Json | None, *, down: str | None = None) -> Json:
    responses = {"200": _reply(summary, answer)}
    if down is not None:
        responses["503"] = _reply("The model has hung", _ref(down))
    return {"operationId": name, "summary": summary, "responses": responses}


def _post(name: str, summary: str, body: Json, answer: Json | None, *, done: str = "200") -> Json:
    operation = {"operationId": name, "summary": summary}
    content = {"application/json": {"schema": body}}
    responses = {
        done: _reply(summary, answer),
        "400": _error("The body is not what Label Studio sends; the answer says why"),
        "413": _error("The body is larger than MAX_BODY_MB"),
    }
    return {**operation, "requestBody": {"required": True, "content": content}} | {
        "responses": responses
    }


def _closed(operation: Json) -> Json:
    """An operation that wants credentials where they are set."""
    missing = {"401": _error("Credentials missing or wrong")}
    return {**operation, "responses": {**operation["responses"], **missing}}
