"""What a reader of a dashboard can choose."""

from panels import Json, datasource_variable, label_variable


def everywhere() -> list[Json]:
    """Prometheus, servers and strategies."""
    return [*_servers(), label_variable("strategy", "Strategy", "label_values(cos_requests_total, strategy)", ".*")]


def of_engines() -> list[Json]:
    """Prometheus, servers and engines."""
    return [*_servers(), label_variable("engine", "Engine", "label_values(cos_engine_up, engine)")]


def _servers() -> list[Json]:
    return [datasource_variable(), label_variable("instance", "Server", "label_values(cos_build_info, instance)", ".*")]
