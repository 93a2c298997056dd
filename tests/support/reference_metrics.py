"""The metrics of the reference deployment, as DESIGN §7 lists them."""

from __future__ import annotations

from typing import Final

#: Metric and labels of what the agent collects.
SYSTEM: Final = {
    "cpu_usage_percent": {"core", "type"},
    "memory_usage_bytes": {"type"},
    "memory_total_bytes": set[str](),
    "disk_usage_bytes": {"mount_point", "type"},
    "network_bytes_total": {"interface", "direction"},
    "system_load": {"period"},
}
#: Of what the backend counts; a histogram stands with its family's name.
BACKEND: Final = {
    "http_requests_total": {"method", "endpoint", "status_code"},
    "http_request_duration_seconds": {"method", "endpoint"},
    "websocket_connections_active": {"channel"},
    "database_connections_active": set[str](),
    "missions_total": {"type", "status"},
    "mission_duration_seconds": {"type"},
    "mission_success_rate": {"type"},
    "mission_queue_size": {"priority"},
    "safety_events_total": {"type", "severity"},
    "safety_response_time_seconds": {"type"},
    "telemetry_data_points_total": {"data_type", "module_id"},
    "telemetry_latency_seconds": {"data_type"},
    "config_changes_total": {"config_type"},
    "config_validation_errors_total": {"config_type"},
    "api_response_time_seconds": {"endpoint", "method"},
    "api_throughput_requests_per_second": {"endpoint"},
    "database_query_duration_seconds": {"query_type", "table"},
    "database_connections_pool_size": set[str](),
    "cache_hit_rate": {"cache_type"},
    "cache_size_bytes": {"cache_type"},
    "memory_allocation_bytes": {"type"},
    "garbage_collection_duration_seconds": set[str](),
}
