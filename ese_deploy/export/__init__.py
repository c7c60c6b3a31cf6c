"""From a checkpoint to a verified bundle."""

from ese_deploy.export.pipeline import ExportRequest, export_bundle

__all__ = ["ExportRequest", "export_bundle"]
