"""The demo project: "Urine sediment", drawn images, a dozen of them annotated.

``python -m backend.local.demo [FOLDER]`` makes it, or goes on where it was interrupted; with
FOLDER it holds that folder's images instead. Only ``backend.local`` may import it.
"""
