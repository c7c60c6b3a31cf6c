"""Embedding of files and tables: in parts that can be resumed, in one process, in several, or on Ray."""

from typing import TYPE_CHECKING

from ese_deploy.system.lazy import lazy_names

__all__ = [
    "BadRows",
    "EmbedSummary",
    "Fields",
    "JobPlan",
    "JobSettings",
    "LoadSummary",
    "ModelSettings",
    "RayEmbedder",
    "RaySettings",
    "embed_files",
    "load_vectors",
    "parse_template",
    "plan_job",
]

if TYPE_CHECKING:
    from ese_deploy.bulk.load import LoadSummary, load_vectors
    from ese_deploy.bulk.on_ray import RayEmbedder, RaySettings
    from ese_deploy.bulk.plan import JobPlan, plan_job
    from ese_deploy.bulk.run import EmbedSummary, embed_files
    from ese_deploy.bulk.settings import BadRows, JobSettings, ModelSettings
    from ese_deploy.texts.fields import Fields, parse_template
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "ese_deploy.bulk.load": ["LoadSummary", "load_vectors"],
            "ese_deploy.bulk.on_ray": ["RayEmbedder", "RaySettings"],
            "ese_deploy.bulk.plan": ["JobPlan", "plan_job"],
            "ese_deploy.bulk.run": ["EmbedSummary", "embed_files"],
            "ese_deploy.bulk.settings": ["BadRows", "JobSettings", "ModelSettings"],
            "ese_deploy.texts.fields": ["Fields", "parse_template"],
        },
    )
