"""A model without torch or pandas that can be served, and a server of it: run as a
script with a folder and a port, it is `recsys-nb serve` for such models."""

import json
import sys
import time
from pathlib import Path

from recsys_nb.serving.versions import MODEL_OPENERS


class Stub:
    "Lists the items of its file to everybody."

    def __init__(self, folder, name):
        about = json.loads((folder / "stub.json").read_text())
        self.items, self.name = about["items"], name

    def recommend(self, user_id, k=10, exclude_seen=True, events=(), **rules):
        if user_id == "hang":
            time.sleep(60)
        ids = self.items[:k]
        items = [{"item_id": i, "rank": n, "score": -n} for n, i in enumerate(ids, 1)]
        known = {"user_id": str(user_id), "model": self.name, "unknown_items": []}
        source = "events" if events else "popular"
        return known | {"source": source, "items": items, "n_events": len(events)}

    def similar(self, item_id, k=10):
        return {"item_id": item_id, "model": self.name, "items": []}

    def item(self, item_id):
        if item_id not in self.items:
            raise KeyError(item_id)
        return {"item_id": item_id}

    def health(self):
        return {"status": "ok", "model": self.name}


MODEL_OPENERS["stub.json"] = Stub


def write_stub(folder: Path, items) -> Path:
    "A folder that holds a stub."
    folder.mkdir(parents=True)
    (folder / "stub.json").write_text(json.dumps({"items": items}))
    return folder


if __name__ == "__main__":
    from recsys_nb.serving.parts import AppSettings
    from recsys_nb.serving.server import serve

    folder, port, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    settings = AppSettings(**options.pop("settings", {}))
    print("loaded:", *sorted({"torch", "pandas"} & set(sys.modules)), flush=True)
    serve(folder, port=port, settings=settings, **options)
