"""How often the default backbone finds what a follow-up question means; these were written before it was asked."""

from __future__ import annotations

import re

import pytest
from memrecall_kv.backbone.loading import load_backbone
from memrecall_kv.recall.follow_up import Turn, stand_alone

pytestmark = pytest.mark.real

FOLLOW_UPS = [
    (("Who chairs the safety board?", "Petra Lindqvist"), "How long has she chaired it?", "Petra Lindqvist"),
    (("Which ship carried the turbines?", "The Aurelia."), "When was it built?", "Aurelia"),
    (("What is the interest on a student loan?", "Two per cent."), "And on a mortgage?", "interest on a mortgage"),
    (("Where does the river Anso begin?", "At Lake Tarn."), "How long is it?", "Anso"),
    (("Who invented the folding kayak?", "Oskar Weil, a tailor."), "What did he do before?", "Oskar Weil"),
    (("What does the gardener keep in the shed?", "Two ladders."), "Who else uses them?", "ladders"),
    (("Which clinic treats burns?", "The Meridian clinic."), "Where is it?", "Meridian|clinic"),
    (("When does the night shift start?", "At ten."), "Who may swap it?", "night shift"),
    (("How many employees does Borealis have?", "About 400."), "Who owns it?", "Borealis"),
    (("Where is the key for the lab?", "In the blue cabinet."), "Who put it there?", "key for the lab|key"),
    (("What did Mr Dunn sell?", "His farm."), "What did he buy with the money?", "Mr Dunn|Dunn"),
    (("Who wrote the opera?", "Clara Voss wrote it in Riga."), "Did she live there?", "Clara Voss"),
    (("Which form do I need for a refund?", "Form R7."), "Where do I send it?", "[Ff]orm"),
    (("When is the deadline for grants in May?", "On the 12th."), "What about June?", "in June"),
    (("Who trains the new pilots?", "Captain Reyes."), "What is his phone number?", "Reyes"),
    (("What is the Harlow effect?", "A drop in pressure."), "Who discovered it?", "Harlow effect"),
]
ALONE = [
    "How many bicycles may be parked in the yard?",
    "What is the name of the ferry to Oban?",
    "Is it legal to record a phone call?",
    "Who is Clara Voss and what did she write?",
    "Does the shop sell stamps?",
    "How often is the boiler inspected, and who inspects it?",
    "Where can visitors leave their luggage?",
    "List the members of the safety board",
]


def test_most_follow_up_questions_are_understood_and_the_others_left_alone() -> None:
    backbone = load_backbone(None)
    asked = [(stand_alone(backbone, question, [Turn(*turn)]), meant) for turn, question, meant in FOLLOW_UPS]
    missed = [found for found, meant in asked if not re.search(meant, found)]
    changed = [
        found for question in ALONE if (found := stand_alone(backbone, question, [Turn(*FOLLOW_UPS[0][0])])) != question
    ]
    assert len(missed) <= 4, missed  # three when this was written
    assert changed == []
