"""Where alerts are sent: one dataclass per ``type`` of ``alerting.notification_channels``."""

# ruff: noqa: RUF009  # `setting()` returns a dataclass field; sections are frozen
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from .kinds import (
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    ListOf,
    SecretText,
    Section,
    SelectorText,
    Text,
    Url,
    required,
    setting,
)
from .prometheus import HttpClient
from .secret import Secret
from .units import MINUTE, SECOND

_MAILBOX = Text(r"[^\s@<>]+@[^\s@<>]+|[^\r\n<>]*<[^\s@<>]+@[^\s@<>]+>", "a mail address")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """What all channels share."""

    name: str = setting("", Text(), "Name in the dashboard and in messages; empty: the type.")
    match: str = setting(
        "{}", SelectorText(everything=True), "Only alerts whose labels this selector matches."
    )
    send_resolved: bool = setting(True, Flag(), "Tell when an alert is over, too.")
    repeat_interval_ms: int = setting(
        4 * 60 * MINUTE, Duration(MINUTE), "How long until an alert that still fires is repeated."
    )
    timeout_ms: int = setting(10 * SECOND, Duration(SECOND), "How long one attempt may take.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailChannel(Channel):
    """Mail over SMTP."""

    recipients: tuple[str, ...] = field(
        metadata=required(ListOf(_MAILBOX), "Mail addresses, at least one.")
    )
    sender: str = setting("tachograph@localhost", _MAILBOX, "Address in `From`.")
    smtp_host: str = setting("localhost", Text(empty=False), "Mail server.")
    smtp_port: int = setting(25, Integer(1, 65535), "Port of the mail server.")
    tls: str = setting(
        "starttls_if_offered",
        Choice("none", "starttls_if_offered", "starttls", "tls"),
        "Encryption of the connection.",
    )
    username: str = setting("", Text(), "User at the mail server; empty: no login.")
    password: Secret | None = setting(None, SecretText(), "Password at the mail server.")
    password_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the password; read at every use."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackChannel(Channel):
    """A Slack incoming webhook."""

    webhook_url: Secret | None = setting(None, SecretText(), "The webhook; it is a secret.")
    webhook_url_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the webhook; read at every use."
    )
    channel: str = setting("", Text(), "Channel to write to instead of the webhook's own.")
    username: str = setting("Tachograph", Text(), "Name shown as the writer.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TelegramChannel(Channel):
    """A Telegram bot."""

    bot_token: Secret | None = setting(None, SecretText(), "Token of the bot.")
    bot_token_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the token; read at every use."
    )
    chat_id: str = field(
        metadata=required(
            Text(r"-?[0-9]+|@[A-Za-z0-9_]+", "a chat id such as -1001234 or @name"), "The chat."
        )
    )
    api_url: str = setting("https://api.telegram.org", Url(), "Base of the Bot API.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookChannel(Channel):
    """Any HTTP receiver of Alertmanager's webhook message."""

    url: Secret | None = setting(None, SecretText(), "Where to post to; it may hold a secret.")
    url_file: Path | None = setting(
        None, FilePath(secret=True), "File that holds the URL; read at every use."
    )
    http_config: HttpClient = setting(HttpClient(), Section(HttpClient), "How to send requests.")
    max_alerts: int = setting(0, Integer(), "Most alerts in one message; 0: no limit.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagerChannel(Channel):
    """A Prometheus Alertmanager, by its API v2."""

    url: str = field(metadata=required(Url(), "Base URL of the Alertmanager."))
    http_config: HttpClient = setting(HttpClient(), Section(HttpClient), "How to send requests.")


AnyChannel: TypeAlias = (
    EmailChannel | SlackChannel | TelegramChannel | WebhookChannel | AlertmanagerChannel
)

#: The values of `type`.
CHANNEL_TYPES: Final[Mapping[str, type[AnyChannel]]] = {
    "email": EmailChannel,
    "slack": SlackChannel,
    "telegram": TelegramChannel,
    "webhook": WebhookChannel,
    "alertmanager": AlertmanagerChannel,
}
