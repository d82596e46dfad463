"""The events of Label Studio's webhooks that concern us, by what they are about."""

OF_ANNOTATIONS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"}
)
OF_TASKS = frozenset({"TASKS_CREATED", "TASKS_DELETED"})
OF_LABEL_LINKS = frozenset({"LABEL_LINK_CREATED", "LABEL_LINK_UPDATED", "LABEL_LINK_DELETED"})
PROJECT_UPDATED = "PROJECT_UPDATED"
START_TRAINING = "START_TRAINING"
"""By the connection and not by a webhook: somebody pressed the button."""
