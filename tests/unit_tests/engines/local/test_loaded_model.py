from __future__ import annotations

import threading

import transformers

from langchain_metaaligner import load_engine
from tests.unit_tests.tiny import save


def test_two_checkpoints_are_not_loaded_at_once(tmp_path, monkeypatch):
    load = transformers.AutoModelForCausalLM.from_pretrained
    inside, another = [], threading.Event()

    def recorded(*args, **options):
        inside.append(threading.current_thread())
        if len(inside) > 1:
            another.set()
        another.wait(0.3)  # nobody comes: the other one waits
        inside.pop()
        return load(*args, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", recorded)
    engines = [load_engine(str(save(tmp_path / name)), dtype="float32") for name in ("a", "b")]
    threads = [threading.Thread(target=engine.load) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not another.is_set()
