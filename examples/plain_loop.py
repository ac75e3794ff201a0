"""A method in a plain loop: `distiller(images, labels)` gives the loss terms, and the student is what is left.

python examples/plain_loop.py --epochs 2
"""

import argparse

import torch
from pair import fashion, pair
from torch.utils.data import DataLoader

from crossdistill.methods.kd import KD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    train, validation = fashion(arguments.images)
    student, teacher = pair()

    distiller = KD(student, teacher, temperature=2.0).train()
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=5e-3)
    loader = DataLoader(train, batch_size=128, shuffle=True)
    # Some methods measure something first (CSKD, the standardised features of others); for the rest this does nothing.
    distiller.prepare([images for images, _ in loader])
    for epoch in range(arguments.epochs):
        for step, (images, labels) in enumerate(loader):
            # What fades in or out over the training goes by this; most methods do not read it.
            distiller.set_progress((epoch * len(loader) + step) / (arguments.epochs * len(loader)))
            loss = sum(distiller(images, labels).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    student.eval()
    with torch.no_grad():
        right = [student(images).logits.argmax(1) == labels for images, labels in DataLoader(validation, 256)]
    print(f"top-1 {100 * torch.cat(right).float().mean():.2f} %")
    # The student is plain timm.
    torch.save(student.model.state_dict(), "student.pt")


if __name__ == "__main__":
    main()
