"""Which replica serves a call: the only file that touches Ray Serve's alpha API and its private
client, for which Ray is pinned exactly.

A call says where it wants to go by its session id, made by ``by_media``, ``in_order`` and
``at_replica``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica
from ray.serve.schema import ServeDeploySchema

AWAY_SECONDS = 30.0
"""How long a replica is waited for that Serve has taken out, as it does while it changes it."""
_ORDER = "order "
_REPLICA = "replica "
_MEDIA = "media "


def by_media(key: str, silent: Iterable[str] = ()) -> str:
    """A call about a picture: to the replica that had it before, as long as that lives, and is none
    of the ``silent`` ones."""
    return f"{_MEDIA}{','.join(sorted(silent))} {key}"


def in_order(names: Iterable[str]) -> str:
    """The call of a tracker that begins: to the first of these replicas that is alive, or any."""
    return _ORDER + " ".join(names)


def at_replica(name: str) -> str:
    """A call to one replica; where that is gone, to any, which knows nothing of it and says so."""
    return _REPLICA + name


class MediaRouter(ConsistentHashRouter):
    """Pictures keep their replica; trackers go where they are sent, if that is alive."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._away: list[RunningReplica] = []

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """See ``RequestRouter``. One that is left out, and not known to be dead, keeps its pictures
        and trackers for a while: it may be back in a moment, with what is declared anew."""
        there = {each.replica_id for each in replicas}
        self._away = [each for name, each in self._replicas.items() if name not in there]
        if self._away:
            self._event_loop.call_later(AWAY_SECONDS, self._give_up, self._away)
        super().update_replicas([*replicas, *self._away])

    def _give_up(self, away: list[RunningReplica]) -> None:
        if away is self._away:  # else somebody came or went since
            self._away = []
            gone = {each.replica_id for each in away}
            super().update_replicas(
                [each for each in self._replicas_list if each.replica_id not in gone]
            )

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """See ``RequestRouter``: a list of ranks."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        wish = pending_request.metadata.session_id
        if wish.startswith(_ORDER):
            staying = [each for each in candidate_replicas if each not in self._away]
            alive = await self._alive(staying or candidate_replicas)
            names = wish.removeprefix(_ORDER).split()
            place = {name: number for number, name in enumerate(names)}
            alive.sort(key=lambda each: place.get(each.replica_id.unique_id, len(place)))
            return [[each] for each in alive]
        if wish.startswith(_REPLICA):
            name = wish.removeprefix(_REPLICA)
            meant = [each for each in candidate_replicas if each.replica_id.unique_id == name]
            return [meant or candidate_replicas]
        ranks: list[list[RunningReplica]]
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        silent = wish.removeprefix(_MEDIA).partition(" ")[0].split(",")
        answering = [rank for rank in ranks if rank[0].replica_id.unique_id not in silent]
        return answering or ranks

    def _routing_key(self, pending_request: PendingRequest | None) -> str | None:
        """Of a picture, whichever replicas are silent."""
        key: str | None = super()._routing_key(pending_request)
        return key.removeprefix(_MEDIA).partition(" ")[2] if key else key

    async def _alive(self, candidates: list[RunningReplica]) -> list[RunningReplica]:
        """Those that answer now, or all where none does."""
        known = await self._probe_queue_lens(list(candidates), 0)
        return [each for each, length in known if length is not None] or list(candidates)


def declare(applications: Mapping[str, Any]) -> None:
    """Say what is to run in the cluster; Serve makes it so, and leaves running what is the same.

    Args:
        applications: as in ``ServeDeploySchema``.
    """
    logs = {"log_level": "WARNING", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=logs)  # nothing where it runs already
    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(applications))


def handle_of_replicas(application: str) -> Any:
    """What calls go through; None while the application is still being built."""
    try:
        return serve.get_deployment_handle("Replica", application)
    except KeyError:
        return None


def ask_all(handle: Any, method: str, *arguments: Any, seconds: float) -> list[Any]:
    """What every replica answers; those that do not in time are left out."""
    try:
        found = handle.broadcast(method, *arguments).results(
            timeout_s=seconds, return_exceptions=True
        )
    except (TimeoutError, RayError, RayServeException):
        return []
    return [each for each in found if not isinstance(each, BaseException)]


def message_of_deployment(application: str) -> str:
    """What Serve has to say about the replicas."""
    found = serve.status().applications.get(application)
    if found is None:
        return ""
    return "\n".join([found.message, *(each.message for each in found.deployments.values())])


def names_of_replicas(handle: Any) -> frozenset[str]:
    """Those that Serve takes for running."""
    router = getattr(handle, "_router", None)
    router = getattr(router, "_asyncio_router", None)
    found = getattr(router, "_request_router", None)
    replicas = found.curr_replicas if found is not None else {}
    return frozenset(each.unique_id for each in list(replicas))
