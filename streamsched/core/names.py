"""Names of topics, groups and transactions, from one application id. Spelt out nowhere else."""

from dataclasses import dataclass

DEFAULT_TENANT = "*"
"""Key of the settings record that holds the defaults of every tenant."""


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The names of one installation."""

    app_id: str = "streamsched"
    tenant_ingress: bool = False
    """Whether jobs are submitted on a topic of their tenant's own."""

    @property
    def jobs(self) -> str:
        """Ingress: jobs and cancels."""
        return f"{self.app_id}.jobs"

    @property
    def tenant_jobs_prefix(self) -> str:
        """What the ingress topics of single tenants begin with."""
        return f"{self.app_id}.jobs."

    def ingress(self, tenant: str) -> str:
        """Where jobs of a tenant are submitted."""
        return f"{self.tenant_jobs_prefix}{tenant}" if self.tenant_ingress else self.jobs

    @property
    def tenant_settings(self) -> str:
        """Compacted: rates and the rest of each tenant's settings."""
        return f"{self.app_id}.tenant-settings"

    @property
    def rejected(self) -> str:
        """Records that ingest refused."""
        return f"{self.app_id}.rejected"

    @property
    def dead_letters(self) -> str:
        """Accepted jobs that were not dispatched."""
        return f"{self.app_id}.dead-letters"

    @property
    def events(self) -> str:
        """Outcomes of jobs, as JSON."""
        return f"{self.app_id}.events"

    @property
    def changelog(self) -> str:
        """Compacted, internal: the state of every partition, named as Faust names it."""
        return f"{self.app_id}-jobs-changelog"

    @property
    def egress_prefix(self) -> str:
        """What the default egress topics of all tenants begin with."""
        return f"{self.app_id}.egress."

    def egress(self, tenant: str) -> str:
        """The default egress topic of a tenant."""
        return f"{self.app_id}.egress.{tenant}"

    @property
    def group(self) -> str:
        """The consumer group of the schedulers."""
        return self.app_id

    @property
    def tenant_jobs_group(self) -> str:
        """The consumer group of the schedulers for the ingress topics of single tenants."""
        return f"{self.app_id}-tenant-jobs"

    @property
    def reader_group_prefix(self) -> str:
        """What the groups begin with of readers that commit nothing and share with nobody."""
        return f"{self.app_id}-reader-"

    @property
    def worker_group_prefix(self) -> str:
        """What groups of workers begin with, unless they have other names."""
        return f"{self.app_id}-worker"

    @property
    def observer_group_prefix(self) -> str:
        """What groups begin with that read outcomes, unless they have other names."""
        return f"{self.app_id}-observer"

    @property
    def transactional_id_prefix(self) -> str:
        """What the transactional ids of all partitions begin with."""
        return f"{self.app_id}-"

    def transactional_id(self, partition: int) -> str:
        """Under which the owner of an ingress partition writes."""
        return f"{self.transactional_id_prefix}{partition}"

    def is_reserved(self, topic: str) -> bool:
        """Whether a tenant may not name `topic` as its egress: it is Kafka's or ours."""
        if topic.startswith(self.egress_prefix):
            return False
        return topic.startswith(("__", f"{self.app_id}.", f"{self.app_id}-"))
