"""Simulated room impulse responses (RIRs): the image-source method in random shoebox rooms.

The rooms follow Ko et al., "A study on data augmentation of reverberant speech for robust speech recognition"
(ICASSP 2017): small, medium and large ones, with one absorption coefficient for all walls; speaker and microphone are
within 5 m of each other.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RoomSize(NamedTuple):
    """Ranges of length and width, and of height."""

    name: str
    side_m: tuple[float, float]
    height_m: tuple[float, float]


SIZES = (
    RoomSize("small", (2.5, 6.0), (2.3, 3.0)),
    RoomSize("medium", (6.0, 12.0), (2.5, 4.0)),
    RoomSize("large", (12.0, 30.0), (3.0, 8.0)),
)
RT60_S = (0.1, 0.9)
ABSORPTION = (0.2, 0.8)
DISTANCE_M = (0.5, 5.0)
WALL_CLEARANCE_M = 0.5
# The number of echoes grows with the cube of the order; up to 30 takes 0.03 s, and the echoes of higher orders are
# below -30 dB in most rooms.
MAX_ORDER = 30
TAIL_DB = -60.0
SPEED_OF_SOUND_M_PER_S = 343.0
# Half the length of the interpolation filter with which pyroomacoustics places an echo between two samples.
LEAD_SAMPLES = 40


class RoomImpulseResponse(NamedTuple):
    """One RIR: its unique key, the room it was simulated in, and its samples (float32, exact in 16 bits)."""

    key: str
    room_id: str
    rir: NDArray[np.float32]


class Room(NamedTuple):
    """A shoebox, all lengths in metres: extent, source and microphone positions (3,), and Sabine's RT60."""

    extent_m: NDArray[np.float64]
    source_m: NDArray[np.float64]
    microphone_m: NDArray[np.float64]
    rt60_s: float


def simulate_rirs(num_rooms: int, seed: int, sample_rate: int = 16000) -> Iterator[RoomImpulseResponse]:
    """Simulate one RIR in each of ``num_rooms`` random rooms; small, medium and large rooms take turns.

    The RIR of a room is a function of (seed, number of the room, sample rate): more rooms append to the list. It
    starts 40 samples before the direct sound, not when the source is switched on, so that convolution delays speech
    by 2.5 ms at 16 kHz whatever the distance. It ends where less than -60 dB of its energy remain. Its peak is just
    below 1 and its samples are multiples of 2^-15, so that a 16-bit file holds it without loss.

    Args:
        num_rooms: number of rooms, and of RIRs.
        seed: non-negative.
        sample_rate: samples a second.
    """
    for index in range(num_rooms):
        size = SIZES[index % len(SIZES)]
        room = draw_room(size, np.random.default_rng([seed, index]))
        room_id = f"{size.name}-{index:05d}"
        yield RoomImpulseResponse(f"{room_id}-rir", room_id, room_impulse_response(room, sample_rate))


def draw_room(size: RoomSize, rng: np.random.Generator) -> Room:
    """Draw a room whose RT60 (0.1 to 0.9 s) and wall absorption (0.2 to 0.8) are both plausible."""
    extent = np.array([*rng.uniform(*size.side_m, size=2), rng.uniform(*size.height_m)])
    shortest, longest = (_sabine_rt60(extent, absorption) for absorption in reversed(ABSORPTION))
    rt60 = rng.uniform(max(shortest, RT60_S[0]), min(longest, RT60_S[1]))
    microphone = rng.uniform(WALL_CLEARANCE_M, extent - WALL_CLEARANCE_M)
    while True:
        source = rng.uniform(WALL_CLEARANCE_M, extent - WALL_CLEARANCE_M)
        if DISTANCE_M[0] <= np.linalg.norm(source - microphone) <= DISTANCE_M[1]:
            return Room(extent, source, microphone, float(rt60))


def room_impulse_response(room: Room, sample_rate: int) -> NDArray[np.float32]:
    """Simulate the RIR of ``room``, trimmed and scaled as :func:`simulate_rirs` says."""
    import pyroomacoustics

    absorption = _sabine_rt60(room.extent_m, 1.0) / room.rt60_s
    # Echoes up to the order whose images may still arrive within RT60.
    order = math.ceil(SPEED_OF_SOUND_M_PER_S * room.rt60_s / room.extent_m.min())
    num_threads = pyroomacoustics.constants.get("num_threads")
    # Several threads would sum the echoes in another order.
    pyroomacoustics.constants.set("num_threads", 1)
    try:
        shoebox = pyroomacoustics.ShoeBox(
            room.extent_m,
            fs=sample_rate,
            materials=pyroomacoustics.Material(absorption),
            max_order=min(order, MAX_ORDER),
        )
        shoebox.add_source(room.source_m)
        shoebox.add_microphone(room.microphone_m)
        shoebox.compute_rir()
    finally:
        pyroomacoustics.constants.set("num_threads", num_threads)
    rir = np.asarray(shoebox.rir[0][0], dtype=np.float64)
    # pyroomacoustics itself delays everything by LEAD_SAMPLES.
    distance_m = np.linalg.norm(room.source_m - room.microphone_m)
    rir = rir[int(distance_m / SPEED_OF_SOUND_M_PER_S * sample_rate) :]
    remaining = np.cumsum(np.square(rir)[::-1])[::-1]
    rir = rir[: int(np.count_nonzero(remaining > 10 ** (TAIL_DB / 10) * remaining[0]))]
    return (np.round(rir / np.abs(rir).max() * 32767) / 32768).astype(np.float32)


def _sabine_rt60(extent_m: NDArray[np.float64], absorption: float) -> float:
    """Sabine: RT60 = 24 ln(10) V / (c A S) for volume V, wall surface S and energy absorption A."""
    length, width, height = extent_m
    surface = 2 * (length * width + width * height + height * length)
    return float(24 * math.log(10) * length * width * height / (SPEED_OF_SOUND_M_PER_S * absorption * surface))
