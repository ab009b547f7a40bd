"What JupyterLab does for this clone: a notebook is cleaned before it is saved."

from nbdev.clean import clean_nb


def clean_before_saving(model, **_):
    "Leave out what says nothing, such as execution counts."
    if model["type"] == "notebook" and model["content"]["nbformat"] == 4:
        clean_nb(model["content"])


c.ContentsManager.pre_save_hook = clean_before_saving  # noqa: F821 (Jupyter's own name)
