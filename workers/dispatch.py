"""Sends the messages that commits left in the outbox. Torch-free: the API calls it after each commit."""

from __future__ import annotations

import logging

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError
from sqlalchemy import Engine

from state.database import read_scope, session_scope
from state.outbox import mark_published, unpublished
from workers.celery_app import QUEUE_NAMES, RUN_TASK

log = logging.getLogger(__name__)


def publish_outbox(engine: Engine, celery: Celery) -> int:
    """Send what is unsent and mark it; returns how many messages went out.

    Never raises for a broker that is away: the messages stay in the outbox and the janitor sends them. A crash
    between sending and marking sends a message twice, which changes nothing.
    """
    sent: list[int] = []
    with read_scope(engine) as session:
        messages = unpublished(session)
    if not messages:
        return 0
    with celery.connection_for_write() as connection:
        try:
            for message in messages:
                celery.send_task(
                    RUN_TASK, args=[message.task_id], queue=message.queue, connection=connection, retry=False
                )
                sent.append(message.id)
        except broker_errors(celery) as error:
            log.warning("the broker does not take messages, %d wait: %s", len(messages) - len(sent), error)
    if sent:
        with session_scope(engine) as session:
            mark_published(session, sent)
    return len(sent)


def queue_length(celery: Celery, queue: str) -> int | None:
    """Messages that wait in a queue of the broker; None if the broker does not answer."""
    with celery.connection_for_read() as connection:
        try:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:  # Redis has no empty queues
            return 0
        except broker_errors(celery):
            return None


def broker_answers(celery: Celery) -> bool:
    """Whether the broker takes a connection now."""
    return queue_length(celery, QUEUE_NAMES[0]) is not None


def broker_errors(celery: Celery) -> tuple[type[Exception], ...]:
    """The exceptions by which this broker says that it cannot be reached."""
    connection = celery.connection_for_write()
    return (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)
