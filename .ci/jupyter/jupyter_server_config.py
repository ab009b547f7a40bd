"What JupyterLab does for this clone: a notebook is cleaned before it is saved."

from nbdev.clean import clean_jupyter

c.ContentsManager.pre_save_hook = clean_jupyter  # noqa: F821 (Jupyter's own name)
