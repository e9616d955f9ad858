"""``python -m backend connect``: a project with a label config, and the service connected to it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.exceptions
from boto3 import Session

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.json_values import mappings, whole_number
from backend.runs.command_line import CommandError, say
from backend.settings import Settings
from backend.wiring import Wiring

TITLE = "SAM 2"
_BUCKET = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,62})(?:/(.*))?")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "connect",
        help="connect the service to a project of Label Studio, or to one that is made",
        description="Connects the service, with its user name and password, and switches "
        "interactive preannotations on. Started again, it changes what differs.",
    )
    parser.add_argument("url", help="the service's address as Label Studio reaches it")
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--project", type=int, metavar="ID", help="a project that is there")
    chosen.add_argument("--title", help="a project of this title, made where there is none")
    parser.add_argument(
        "--example",
        choices=sorted(examples()),
        default="image_brush",
        help="label config of a project that is made (image_brush)",
    )
    parser.add_argument(
        "--bucket",
        metavar="s3://BUCKET/PREFIX",
        help="where its media come from: a bucket of S3_ENDPOINT_URL, made where there is none",
    )
    parser.set_defaults(run=run)


def examples() -> dict[str, Path]:
    """By name: the label configs that come along. They lie beside the package in a checkout, and
    in it where it was installed."""
    package = Path(__file__).resolve().parents[1]
    found = [*(package / "examples").glob("*.xml"), *(package.parent / "examples").glob("*.xml")]
    return {path.stem: path for path in found}


def run(arguments: argparse.Namespace, wiring: Wiring) -> int:
    """Carry the command out; returns the exit code."""
    client = wiring.connect()
    number = arguments.project
    if number is None:
        number = _project(client, arguments.title, examples()[arguments.example])
    else:
        client.get_project(number)
    if arguments.bucket is not None:
        _connect_bucket(client, number, arguments.bucket, wiring)
    _connect_service(client, number, arguments.url, wiring.settings)
    say(f"project {number} of {client.name} is connected to {arguments.url}")
    return 0


def _project(client: LabelStudioClient, title: str, config: Path) -> int:
    answer = client.request("GET", "/api/projects/", params={"title": title}).json()
    for each in mappings(_results(answer)):
        if each.get("title") == title and (number := whole_number(each.get("id"))) is not None:
            return number
    body: dict[str, Any] = {"title": title, "show_collab_predictions": True}
    body["label_config"] = config.read_text(encoding="utf-8")
    return int(client.request("POST", "/api/projects/", json=body).json()["id"])


def _connect_service(client: LabelStudioClient, project: int, url: str, settings: Settings) -> None:
    body: dict[str, Any] = {"url": url, "title": TITLE, "project": project}
    body["is_interactive"] = True
    if settings.basic_auth_user is not None:
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": settings.basic_auth_user}
        body["basic_auth_pass"] = settings.basic_auth_pass
    listed = client.request("GET", "/api/ml/", params={"project": project}).json()
    same = [each for each in mappings(listed) if each.get("url") == url]
    if same:
        client.request("PATCH", f"/api/ml/{same[0]['id']}", json=body)
    else:
        client.request("POST", "/api/ml/", json=body)


def _connect_bucket(client: LabelStudioClient, project: int, place: str, wiring: Wiring) -> None:
    """Make the bucket, and a source storage that hands out its files by way of Label Studio: a
    browser need not reach the store."""
    match = _BUCKET.fullmatch(place)
    if match is None:
        raise CommandError(f"{place} does not have the form s3://bucket/prefix.")
    bucket, prefix = match[1], (match[2] or "").strip("/")
    _make_bucket(wiring, bucket)
    listed = client.request("GET", "/api/storages/s3/", params={"project": project}).json()
    if any(_is(each, bucket, prefix) for each in mappings(listed)):
        return
    keys = Session().get_credentials()
    settings = wiring.settings
    body = {
        "project": project,
        "title": place,
        "bucket": bucket,
        "prefix": prefix,
        "regex_filter": r".*\.(jpe?g|png|webp|tiff?|bmp|mp4|mov|webm|mkv)$",
        "recursive_scan": True,
        "use_blob_urls": True,
        "presign": False,
        "s3_endpoint": settings.s3_endpoint_url,
        "region_name": settings.s3_region,
        "aws_access_key_id": keys.access_key if keys else None,
        "aws_secret_access_key": keys.secret_key if keys else None,
    }
    client.request("POST", "/api/storages/s3/", json=body)


def _make_bucket(wiring: Wiring, bucket: str) -> None:
    store = wiring.s3().client(bucket)
    try:
        if bucket not in {each["Name"] for each in store.list_buckets()["Buckets"]}:
            store.create_bucket(Bucket=bucket)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise CommandError(
            f"bucket {bucket} cannot be made or looked for ({type(error).__name__}): check "
            "S3_ENDPOINT_URL and the credentials."
        ) from error


def _is(storage: Mapping[str, Any], bucket: str, prefix: str) -> bool:
    return storage.get("bucket") == bucket and (storage.get("prefix") or "") == prefix


def _results(answer: Any) -> Any:
    return answer.get("results") if isinstance(answer, dict) else answer
