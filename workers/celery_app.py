"""The Celery application. Celery carries hints ("look at this task"); what is true stands in the database.

Start a worker with ``--pool threads --concurrency 1``: the work itself is in a child process, so one thread is
enough, and unlike the solo pool it leaves the main thread free for the broker's heartbeats, for remote control and
for SIGTERM; unlike prefork it forks nothing that could inherit connections.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery
from kombu import Queue

from distillation.plan import QUEUES
from state.settings import Settings, get_settings

RUN_TASK = "stillroom.run_task"
QUEUE_NAMES = tuple(sorted(set(QUEUES.values())))

# Redis gives a message to another worker if it is not acknowledged for this long. Stages may take longer; that is
# harmless, because the claim in the database then says that the task is running. The leases see to lost workers.
VISIBILITY_SECONDS = 12 * 3600


def make_app(settings: Settings) -> Celery:
    """A Celery application on the broker of ``settings``."""
    app = Celery("stillroom", include=["workers.tasks"])
    visibility = {"visibility_timeout": VISIBILITY_SECONDS}
    app.conf.update(
        # Redis looks at the shortest of these three, so all are set.
        broker_transport_options={**visibility, **_transport_options(settings.broker_url)},
        result_backend_transport_options=visibility,
        visibility_timeout=VISIBILITY_SECONDS,
        broker_url="filesystem://" if settings.broker_url.startswith("filesystem://") else settings.broker_url,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[Queue(name) for name in QUEUE_NAMES],
        task_default_queue=QUEUE_NAMES[0],
        task_acks_late=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the lease decides, not the connection
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
    )
    return app


def _transport_options(broker_url: str) -> dict[str, Any]:
    """Options of the transport; ``filesystem:///folder`` is ours, kombu wants the folder as options."""
    if broker_url.startswith("filesystem://"):
        folder = Path(broker_url.removeprefix("filesystem://"))
        for name in ("messages", "control"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        messages = str(folder / "messages")
        return {"data_folder_in": messages, "data_folder_out": messages, "control_folder": str(folder / "control")}
    if broker_url.startswith(("redis", "sentinel")):
        # A broker that does not answer must not hold up an HTTP request: the janitor publishes later.
        impatient = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}
        return {**impatient, "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 25}
    return {}


app = make_app(get_settings())
