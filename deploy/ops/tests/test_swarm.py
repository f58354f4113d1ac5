"""What `scripts/swarm` makes of what Compose says."""

from deploy.ops.swarm import DATA_NODE, costs, service_of, stack

PORT = {"host_ip": "127.0.0.1", "target": 8080, "published": "8000", "protocol": "tcp"}


def test_what_swarm_calls_otherwise_is_said_in_its_words() -> None:
    given = {
        "image": "redis:8.0",
        "command": None,
        "depends_on": {"migrate": {"condition": "service_completed_successfully"}},
        "mem_limit": "1024",
        "pids_limit": 512,
        "pull_policy": "never",
        "restart": "unless-stopped",
        "scale": 2,
    }
    assert service_of(given) == {
        "image": "redis:8.0",
        "deploy": {
            "mode": "replicated",
            "replicas": 2,
            "restart_policy": {"condition": "any", "delay": "2s"},
            "resources": {"limits": {"memory": "1024", "pids": 512}},
            "endpoint_mode": "dnsrr",
        },
    }


def test_what_ends_by_itself_is_a_job() -> None:
    deploy = service_of({"restart": "no"})["deploy"]
    assert deploy["mode"] == "replicated-job"
    assert deploy["restart_policy"]["condition"] == "on-failure"


def test_what_keeps_something_stays_on_the_data_s_node() -> None:
    made = service_of({"volumes": [{"type": "volume", "source": "redis", "target": "/data"}]})
    assert made["deploy"]["placement"] == {"constraints": [DATA_NODE]}
    assert "placement" not in service_of({})["deploy"]


def test_folders_in_memory_are_mounts_and_bind_nobody_to_a_node() -> None:
    made = service_of({"shm_size": "1024", "tmpfs": ["/var/run/postgresql:mode=1777"]})
    assert made["volumes"] == [
        {"type": "tmpfs", "target": "/var/run/postgresql"},
        {"type": "tmpfs", "target": "/dev/shm", "tmpfs": {"size": 1024}},  # noqa: S108
    ]
    assert "placement" not in made["deploy"]


def test_names_are_those_of_the_stack() -> None:
    config = {"name": "project", "services": {}, "volumes": {"redis": {"name": "project_redis"}}}
    assert stack(config) == {"services": {}, "volumes": {"redis": {}}}


def test_it_says_what_is_lost() -> None:
    services = {"proxy": {"ports": [PORT], "security_opt": ["no-new-privileges:true"]}}
    first, second = costs({"services": services})
    assert "daemon.json" in first
    assert second.startswith("proxy: port 8000 is open on every address of its node")
    assert costs({"services": {"web": {}}}) == []
