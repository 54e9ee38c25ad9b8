"""A stamp and a record with values that no run ever gave; only for tests."""

STAMP = {
    "profile": "laptop",
    "device": "a test CPU, 2 threads",
    "torch": "2.15.0",
    "python": "3.13.0",
    "platform": "Linux x86_64",
    "data": "no data",
    "date": "2026-01-02",
    "duration_s": 412.7,
    "code_sha256": "0" * 64,
}


def made_up_record(**changes: object) -> dict:
    """Return a record of a run of chapter 7, changed by `changes`."""
    history = [
        {"epoch": epoch, "seconds": 30.0 * epoch, "train_loss": 2 / epoch, "test_accuracy": 0.2 * epoch}
        for epoch in (1, 2, 3, 4)
    ]
    facts = dict.fromkeys(("command", "data", "device", "profile", "python", "torch", "date"), "made-up")
    numbers = {"seed": 0, "parameters": 1234567, "epochs": 4, "batch_size": 10, "test_images": 10_000}
    accuracy = {"train_seconds": 120.0, "test_accuracy": 0.8, "test_interval": [0.792, 0.808]}
    head = {"name": "sample", "title": "A run <fast> | small", "chapter": 7, "history": history}
    return facts | numbers | accuracy | head | changes
