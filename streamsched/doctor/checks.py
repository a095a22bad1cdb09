"""All checks in the order in which one link hangs on the other."""

from typing import Final

from streamsched.doctor import cluster, ingress, links, machine
from streamsched.doctor.checkup import Check

CHECKS: Final = (
    Check("settings", links.check_settings),
    Check("name resolution", links.check_names, ("settings",)),
    Check("port", links.check_ports, ("name resolution",)),
    Check("TLS", links.check_tls, ("port",)),
    Check("broker version", links.check_version, ("TLS",)),
    Check("login", cluster.check_login, ("broker version",)),
    Check("brokers", cluster.check_brokers, ("login",)),
    Check("topics", cluster.check_topics, ("brokers",)),
    Check("rights", cluster.check_rights, ("brokers",)),
    Check("egress topics", cluster.check_egress, ("brokers",)),
    Check("group", cluster.check_group, ("brokers",)),
    Check("clock", ingress.check_clock, ("brokers",)),
    Check("partitioner", ingress.check_partitioner, ("brokers",)),
    Check("data folder", machine.check_data_folder),
    Check("disk", machine.check_disk),
    Check("open files", machine.check_open_files),
)
