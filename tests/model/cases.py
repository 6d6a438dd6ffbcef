"""Which worlds the model is checked in, and what it must catch. Names of faults are the budgets of `protocol.pml`."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Case:
    """`defines` sets the bounds of one search. `endless`: looks for runs without an end instead of broken promises."""

    name: str
    defines: dict[str, int]
    small: bool = False
    endless: bool = False


@dataclass(frozen=True, slots=True)
class ModelMutant:
    """One line of the model, changed: `old` occurs `times` times. The search under `defines` must find fault with it.

    `promise` is what the changed line is there for.
    """

    name: str
    old: str
    new: str
    defines: dict[str, int]
    promise: str
    times: int = 1
    small: bool = field(default=False)


TWO = {"NODES": 2}
THREE = {"NODES": 3, "EDGE": 0, "PROTECTED_START": 1}
DISKS = {"NODES": 2, "EDGE": 0, "DISKS": 1}
SHORT = {"PROTECTED_START": 1}
BOTH_ONCE = {"CRASHES": 1, "CUTS": 1}

CASES = (
    Case("pair: crash, cut", TWO | SHORT | {"CRASHES": 1, "CUTS": 1}, small=True),
    Case("pair from a cold boot: crash, cut", TWO | {"CRASHES": 1, "CUTS": 1}),
    Case("pair: crash, cut, two inputs", TWO | {"CRASHES": 1, "CUTS": 1, "INPUTS": 2}),
    Case("pair: crash, cut, lost question, spurious void", TWO | BOTH_ONCE | {"LOSSES": 1, "VOIDS": 1}),
    Case("pair: crash, cut, repeated question, spurious void", TWO | BOTH_ONCE | {"REPEATS": 1, "VOIDS": 1}),
    Case("pair: crash, and the command that boots again", TWO | {"CRASHES": 1, "CUTS": 1, "REBOOT": 1}),
    Case("pair: two crashes", TWO | {"CRASHES": 2}),
    Case("pair: two cuts, two inputs", TWO | SHORT | {"CUTS": 2, "INPUTS": 2}),
    Case("pair: hand-over", TWO | SHORT | {"HAND_OVERS": 1}, small=True),
    Case("pair: hand-over, crash", TWO | {"HAND_OVERS": 1, "CRASHES": 1}),
    Case("pair: hand-over, cut, crash", TWO | SHORT | {"HAND_OVERS": 1, "CUTS": 1, "CRASHES": 1}),
    Case("pair: power-off, crash", TWO | SHORT | {"POWER_OFF": 1, "CRASHES": 1}, small=True),
    Case("pair: power-off, crash, cut", TWO | {"POWER_OFF": 1, "CRASHES": 1, "CUTS": 1}),
    Case("pair: power-off, hand-over, edge cut", TWO | {"POWER_OFF": 1, "HAND_OVERS": 1, "EDGE_CUTS": 1, "CUTS": 1}),
    Case("pair: edge cut, crash, cut", TWO | SHORT | {"EDGE_CUTS": 1, "CRASHES": 1, "CUTS": 1}),
    Case("pair: edge restart, cut, two inputs", TWO | {"EDGE_RESTARTS": 1, "CUTS": 1, "INPUTS": 2}),
    Case("pair: edge restart, cut", TWO | SHORT | {"EDGE_RESTARTS": 1, "CUTS": 1}, small=True),
    Case("pair: edge restart, crash, cut", TWO | SHORT | {"EDGE_RESTARTS": 1, "CRASHES": 1, "CUTS": 1}),
    Case("three: cut, hand-over", THREE | {"CUTS": 1, "HAND_OVERS": 1}),
    Case("three: crash, cut, no input", THREE | {"CRASHES": 1, "CUTS": 1, "INPUTS": 0}, small=True),
    Case("three: crash, cut", THREE | {"CRASHES": 1, "CUTS": 1}),
    Case("three: crash, cut, spurious void", THREE | {"CRASHES": 1, "CUTS": 1, "VOIDS": 1, "INPUTS": 0}),
    Case("three: two crashes, cut", THREE | {"CRASHES": 2, "CUTS": 1, "INPUTS": 0}),
    Case("three: two crashes", THREE | {"CRASHES": 2}),
    Case("three: two cuts", THREE | {"CUTS": 2}),
    Case("three: power-off, crash", THREE | {"POWER_OFF": 1, "CRASHES": 1, "CUTS": 1}),
    Case("three, with an edge: cut", THREE | {"EDGE": 1, "CUTS": 1}),
    Case("three, with an edge: crash", THREE | {"EDGE": 1, "CRASHES": 1}),
    Case("disks: two crashes", DISKS | SHORT | {"CRASHES": 2}, small=True),
    Case("disks, from a cold boot: two crashes", DISKS | {"CRASHES": 2}),
    Case("disks: three crashes", DISKS | {"CRASHES": 3}),
    Case("disks: two crashes, cut", DISKS | SHORT | {"CRASHES": 2, "CUTS": 1}),
    Case("disks: two crashes, two inputs, lost questions", DISKS | SHORT | {"CRASHES": 2, "INPUTS": 2, "LOSSES": 1}),
    Case("pair, endless runs: crash, cut", TWO | SHORT | {"CRASHES": 1, "CUTS": 1, "LOSSES": 1}, endless=True),
    Case("three, endless runs: crash, cut", THREE | {"CRASHES": 1, "CUTS": 1, "INPUTS": 0}, endless=True),
    Case("disks, endless runs: two crashes", DISKS | {"CRASHES": 2}, endless=True),
)

CUT = TWO | SHORT | {"CUTS": 1}
CRASH = TWO | SHORT | {"CRASHES": 1}
BOTH = TWO | SHORT | {"CRASHES": 1, "CUTS": 1}
THREE_BOTH = THREE | {"CRASHES": 1, "CUTS": 1}
DOUBLE = DISKS | SHORT | {"CRASHES": 2}

MUTANTS = (
    ModelMutant(
        "every claim is granted",
        "m==Claim && w==cur+1 && ENTITLED -> cur=w;",
        "m==Claim -> cur=w;",
        CUT,
        "a generation is granted once",
        small=True,
    ),
    ModelMutant(
        "void without activation check",
        "-> last_activated==bs : bs==cur)",
        "-> 1 : bs==cur)",
        BOTH | {"VOIDS": 1},
        "what was activated cannot be voided",
    ),
    ModelMutant(
        "activation of a superseded generation",
        "m==Activate && w==cur && rec_life",
        "m==Activate && rec_life",
        BOTH | {"VOIDS": 1},
        "a voided grant is never activated",
    ),
    ModelMutant(
        "activation skipped",
        "m==Granted && st[i]!=POWERING_OFF -> claim(i, ACTIVATING, g)",
        "m==Granted && st[i]!=POWERING_OFF -> gen[i]=g; open[i]=0; go_live(i)",
        BOTH | {"VOIDS": 1},
        "nothing is released before the activation was answered",
    ),
    ModelMutant(
        "committed without members",
        "COMMITTING(i) && HELD_BY_ALL(i) > comm[i] -> comm[i]=HELD_BY_ALL(i)",
        "COMMITTING(i) && n[i] > comm[i] -> comm[i]=n[i]",
        CRASH,
        "no output before every member holds the log",
        small=True,
    ),
    ModelMutant(
        "commits while claiming",
        "|| st[i]==CEDING || st[i]==POWERING_OFF)\n\n#define FOLLOWERS",
        "|| st[i]==CEDING || st[i]==POWERING_OFF || st[i]==RECLAIMING)\n\n#define FOLLOWERS",
        CUT,
        "a lost member may be claiming: the gate stands",
    ),
    ModelMutant(
        "mark without closing the gate",
        "acked[i*NODES+s]=n[i]; st[i]=PROTECTED;",
        "acked[i*NODES+s]=INPUTS; st[i]=PROTECTED;",
        TWO | {"CRASHES": 1, "INPUTS": 1},
        "the gate closes in the step that sends the Mark",
    ),
    ModelMutant(
        "member dropped without a generation",
        ":: st[i]==PROTECTED || st[i]==CEDING -> lose_member(i)",
        ":: st[i]==PROTECTED || st[i]==CEDING -> if :: mem[i]==0 -> st[i]=SOLO :: else fi; commit(i)",
        CUT,
        "who was marked may believe itself eligible",
    ),
    ModelMutant(
        "joiner counts as a member",
        "if :: gen[i]==0 -> open[i]=0 :: else -> start_over(i) fi }",
        "if :: gen[i]==0 -> open[i]=0 :: else -> open[i]=0; st[i]=SUSPECT fi }",
        TWO | {"CUTS": 1},
        "who was not marked is not eligible",
    ),
    ModelMutant(
        "base follows the arbiter",
        "				freeze(i)\n",
        "				if :: st[i]==CLAIMING -> gen[i]=cur; prim[i]=rec_life[cur]; claim(i, CLAIMING, cur+1)"
        " :: else -> freeze(i) fi\n",
        CUT | {"INPUTS": 2},
        "a base comes from what was received",
    ),
    ModelMutant(
        "kept though not named",
        "&& a==prim[i] && (k & B(i)) ->	/* S4 */",
        "&& a==prim[i] ->	/* S4 */",
        THREE | {"CUTS": 2},
        "only members who stay move on with their primary",
    ),
    ModelMutant(
        "kept without life check",
        "&& a==prim[i] && (k & B(i)) ->	/* S4 */",
        "->	/* S4 */",
        CUT | {"INPUTS": 2},
        "a newer generation of somebody else is not mine",
    ),
    ModelMutant(
        "kept members are not kept",
        "st[i]==CLAIMING && a==prim[i] && (k & B(i)) ->	/* S4 */",
        "st[i]==CLAIMING && 0 ->	/* S4 */",
        THREE_BOTH,
        "a member who stays may be the last copy",
    ),
    ModelMutant(
        "kept for a generation that never counted",
        "if :: gen[i] > last_activated -> gen[i]=last_activated :: else fi;",
        "",
        THREE | {"CRASHES": 2, "CUTS": 1, "INPUTS": 0},
        "the last copy can void what was granted and never activated",
    ),
    ModelMutant(
        "generation goes on without its members",
        ":: keep[i]!=0 && keep[i]==mem[i] -> keep[i]=0;",
        ":: keep[i]!=0 -> keep[i]=0;",
        THREE | {"CUTS": 2},
        "a kept member that was lost meanwhile takes another generation",
    ),
    ModelMutant(
        "acknowledges what it does not hold",
        "if :: st[i]==IN_SYNC -> toP[i]!Ack(gen[i],n[i]) :: else fi",
        "if :: st[i]==IN_SYNC -> toP[i]!Ack(gen[i],INPUTS) :: else fi",
        CRASH | {"INPUTS": 2},
        "an acknowledgement says how much is held",
    ),
    ModelMutant(
        "claim retried with a fresh life",
        ":: atomic { OPEN_REQUEST(i) && empty(ask[i]) && empty(answer[i]) -> send_request(i) }",
        ":: atomic { OPEN_REQUEST(i) && empty(ask[i]) && empty(answer[i]) && life[i]<4 -> life[i]++; send_request(i) }",
        CUT | {"LOSSES": 1},
        "the same question, repeated, gets the same answer",
    ),
    ModelMutant(
        "a generation is its node's, not its life's",
        "rec_life[w]==l",
        "NODE_OF(rec_life[w])==NODE_OF(l)",
        TWO | {"CRASHES": 1, "REBOOT": 1},
        "a process that started again holds nothing of what it held",
        times=2,
    ),
    ModelMutant(
        "stale generation accepted by the edge",
        ":: g < eg							/* the fence */",
        ":: g < eg && m!=Output && m!=Live",
        CUT | {"INPUTS": 2},
        "the edge refuses an older generation",
    ),
    ModelMutant(
        "refused primary goes on",
        "inline freeze(i) { fall_silent(i); comm[i]=0; st[i]=FROZEN }",
        "inline freeze(i) { if :: st[i]==RECLAIMING -> gen[i]=want[i]; keep[i]=0; go_live(i)"
        " :: else -> fall_silent(i); comm[i]=0; st[i]=FROZEN fi }",
        CUT,
        "a refused primary is silent",
    ),
    ModelMutant(
        "dedup forgotten at promotion",
        "if :: prim[i]!=LIFE(i) -> injected[i]=n[i] :: else fi;",
        "if :: prim[i]!=LIFE(i) -> injected[i]=0 :: else fi;",
        CRASH,
        "no input is applied twice",
        small=True,
    ),
    ModelMutant(
        "dedup off by one",
        "takes[i] && EXECUTES(i) && a!=NONE && a >= injected[i] ->",
        "takes[i] && EXECUTES(i) && a!=NONE && a+1 >= injected[i] ->",
        CRASH,
        "no input is applied twice",
    ),
    ModelMutant(
        "trims what was released",
        "toE[i]!Output(gen[i],sent[i]-1,bits[i] & PREFIX(sent[i])) }",
        "toE[i]!Output(gen[i],sent[i]-1,bits[i] & PREFIX(sent[i])); conf[i]=sent[i] }",
        TWO | SHORT | {"EDGE_CUTS": 1},
        "only what the edge confirmed is trimmed",
    ),
    ModelMutant(
        "inputs acknowledged before they are committed",
        "comm[i] > told[i])) ->\n		told[i]=comm[i]; if :: comm[i] > giack -> giack=comm[i] :: else fi;",
        "n[i] > told[i])) ->\n		told[i]=n[i]; if :: n[i] > giack -> giack=n[i] :: else fi;",
        CRASH,
        "acknowledgements of inputs are outputs too",
    ),
    ModelMutant(
        "restarted edge believes the first it hears",
        "eg=last_activated; have=0;",
        "eg=0; have=0;",
        TWO | {"EDGE_RESTARTS": 1, "CUTS": 1},
        "what is acknowledged to a client is what that client sent",
    ),
    ModelMutant(
        "frozen for ever",
        "(st[i]==SUSPECT || st[i]==FROZEN) && ANY_NEWER(i) -> start_over(i)",
        "st[i]==SUSPECT && ANY_NEWER(i) -> start_over(i)",
        CUT,
        "who lost a claim joins the winner",
    ),
    ModelMutant(
        "claims are not repeated",
        ":: atomic { OPEN_REQUEST(i) && empty(ask[i]) && empty(answer[i]) -> send_request(i) }",
        "",
        CUT | {"LOSSES": 1},
        "a lost question is asked again",
    ),
    ModelMutant(
        "off is forgotten",
        "if :: kd==KIND_OFF -> off=1 :: else fi;",
        "",
        TWO | {"POWER_OFF": 1, "CUTS": 1, "CRASHES": 1},
        "a machine that was powered off stays off",
    ),
    ModelMutant(
        "power-off before the edge has everything",
        "	:: atomic { st[i]==CONSUMING -> go_live(i) }",
        "	:: atomic { st[i]==CONSUMING -> go_live(i) }\n"
        "	:: atomic { HALTED(i) && ACCEPTING(i) -> claim(i, POWERING_OFF, gen[i]+1) }",
        TWO | {"POWER_OFF": 1},
        "the last outputs are delivered before the machine is off",
    ),
    ModelMutant(
        "restart without asking the others",
        "(WORTH(i) && !PRESENT(q) && (!CONCERNS(i, q) || HOLDS_LESS(q, i)))",
        "(WORTH(i) && !PRESENT(q))",
        DOUBLE,
        "a disk does not overtake a machine in memory, nor a longer log",
    ),
    ModelMutant(
        "shorter log restarts first",
        "(WORTH(q) && (dn[q] > dn[i] || (dn[q]==dn[i] && q < i)))",
        "(WORTH(q) && dn[q]==dn[i] && q < i)",
        DOUBLE,
        "the longest log goes live",
    ),
    ModelMutant(
        "restart of a generation that does not count",
        "(kd==KIND_VOID || kd==KIND_RESTART -> last_activated==bs : bs==cur)",
        "(kd==KIND_VOID -> last_activated==bs : (kd==KIND_RESTART || bs==cur))",
        DISKS | {"CRASHES": 2, "CUTS": 1},
        "only a log of the last activated generation goes on",
    ),
    ModelMutant(
        "Mark before its stamp is durable",
        "announced[i] < 16 && ACCEPTING(i) -> write_stamp(i);",
        "announced[i] < 16 && ACCEPTING(i) ->",
        DISKS | {"CRASHES": 2},
        "a disk that says alone was never followed by a Mark",
    ),
)
