/* The replication protocol of ftvm, for SPIN.

THEORY OF OPERATION

NODES nodes, one arbiter, one edge and an environment that breaks things run as processes; SPIN tries every order in
which their steps can happen. A step is one event of the production core (ftvm/replication) with all its effects. No
process ever has to move, so pauses of any length, slow peers and zombies need no code: they are orders of steps. Time
does not exist, so a timer is a step that may happen whenever its state allows it; a timer that could fire for ever is
given a budget. Budgets bound the faults (CRASHES, CUTS, LOSSES, ...), and INPUTS bounds the log: every run is finite.

An entry of the log is one input; it makes one output. Its content is who wrote it (node and parity of the
generation), W bits: two authors of the same position always differ, which is the worst that a host's nondeterminism
can do. Histories are therefore small integers, and "holds what was released" is an equation.

What is promised (numbers as in the description of the protocol), as assertions:
  1 who goes live alone holds every released output and every acknowledged input            (go_live)
  2 one releaser a generation, and it is the one that the arbiter recorded                  (released)
  3 the released history only ever extends                                                  (released)
  4 the edge takes nothing of an older generation than the newest that it saw               (Edge)
  5 no input is applied twice, and none is left out                                         (Input)
  6 nothing that the edge lacks was trimmed                                                 (Attach)
and, when nothing can happen any more (`timeout`): the machine is live, protected by all other nodes, and every input
was served, unless every copy of the newest activated state is gone (or the machine was powered off). With the check
for endless runs (run.py: `endless`) that means: however the faults fell, once they end the machine heals.

NAMES: model -> code (ftvm/replication)
  mtype:state names            arbitration.State, one to one
  mtype:message names          messages.py, one to one; `life` on Ack and Ready is left out (a session has one life)
  KIND_x                       messages.Kind.x
  go_live, freeze, start_over  Succession._go_live, _freeze, Succession._end(StartOver)
  lose_member, refused         Succession._lose_member, _refused
  gen, prim, life, want, keep  Replica.generation, Shadow.primary_life (own life once live), .life, Claim.want, .keep
  n, comm, conf                OutputGate.end, .committed, ._Stream.confirmed
  injected, att, elive, takes  EdgeSessions._injected, .attached, .live, .takes_input
  mem, joiner, acked           Primary.members(), a Follower that is no MEMBER, Follower.acked
  cur, rec_life, rec_keep      Ledger.current, Record.life, Record.keep; last_activated, off: Ledger's
  eg, conn, have, iack, isent  EdgeCore._generation, ._session, _Stream.have, .acked, .sent
  dn, dgen, dholder, dlife     ftvm/log/stamp.py: Held.pos, Stamp.gen, .holder_life, .life
  dmem, WORTH, announced       Stamp.members, restart.worth, Stamper.announce
Kept lives are a mask of nodes: within one generation a node is a member with one life only.

LEFT OUT: SnapshotChunk and Inventory (a copy is one Snapshot), Heartbeat and Read (whoever asks sees the newest, what
follows from it comes late), timers, execution behind the log (CONSUMING is one step), policies other than all, forced
starts, a restart of three nodes, an edge together with disks. A cold boot whose log was not yet on a disk is lost with
its process, and so is a log that its life's own late Activate outdated: both then need the operator.
A restarted edge is told where its streams stand only by a primary for which every member vouched after it asked
(EdgeSessions.stranger, Primary.vouch). Then nobody had been granted more than that primary's generation: so here it
begins with `last_activated` as its fence, in one step. Without that (mutant `restarted edge believes the first it
hears`) it may begin with a zombie, and acknowledge to its clients what was another client's.

Mutants are one-line changes of this text: see run.py. */

#ifndef NODES
#define NODES 2
#endif
#ifndef EDGE
#define EDGE 1		/* 0: an edge that is never cut and loses nothing, without a process of its own */
#endif
#ifndef INPUTS
#define INPUTS 1
#endif
#ifndef CRASHES
#define CRASHES 0	/* a process dies and is started again as a new life that holds nothing */
#endif
#ifndef REBOOT
#define REBOOT 0	/* 1: who starts again may be told to boot, as it was the first time */
#endif
#ifndef CUTS
#define CUTS 0		/* sessions between nodes */
#endif
#ifndef LOSSES
#define LOSSES 0	/* questions to and answers of the arbiter */
#endif
#ifndef REPEATS
#define REPEATS 0	/* questions asked again though the first is still on its way */
#endif
#ifndef VOIDS
#define VOIDS 0		/* grants voided though their holder is only slow */
#endif
#ifndef EDGE_CUTS
#define EDGE_CUTS 0
#endif
#ifndef EDGE_RESTARTS
#define EDGE_RESTARTS 0
#endif
#ifndef HAND_OVERS
#define HAND_OVERS 0
#endif
#ifndef POWER_OFF
#define POWER_OFF 0	/* 1: the guest halts after its last input */
#endif
#ifndef PROTECTED_START
#define PROTECTED_START 0	/* 1: begins in generation 1 with every node in sync; 0: begins with a cold boot */
#endif
#ifndef DISKS
#define DISKS 0		/* 1: a process that died keeps its log, and may go on from it (two nodes, no edge process) */
#endif
#ifndef QUEUE
#define QUEUE 1		/* messages under way in one direction of a session */
#endif
#define GENERATIONS 12

mtype:state = { STARTING, BOOTING, WAITING, REPLAYING, RESTARTING, JOINING, IN_SYNC, SUSPECT, CLAIMING, ACTIVATING, CONSUMING, SOLO, PROTECTED, CEDING,
	RECLAIMING, POWERING_OFF, FROZEN, VOIDING, OVER };
mtype:message = { Claim, Activate, Granted, Refused, Activated, Snapshot, Log, Mark, NewGeneration, HandOver, Ready, Ack,
	Live, Output, InputAck, Halted, Attach, Input, Final };
mtype:kind = { KIND_BOOT, KIND_SOLO, KIND_PROMOTE, KIND_RECONFIGURE, KIND_OFF, KIND_VOID, KIND_RESTART };

#if EDGE_RESTARTS	/* and which epoch of the edge the input is of: two bits more */
#define W 4
#define AUTHOR(i) ((gen[i]&1)*2+(i))
#elif NODES == 2
#define W 2
#define AUTHOR(i) ((gen[i]&1)*2+(i))
#else
#define W 3
#define AUTHOR(i) ((gen[i]&1)*4+(i))
#endif
#if INPUTS * W <= 8
#define HISTORY byte
#else
#define HISTORY short
#endif
#define NONE 255
#define EPOCH_OF(h, k) (((h)>>(W*(k)+2))&3)
#define B(s) (1<<(s))
#define PREFIX(k) ((1<<(W*(k)))-1)
#define SAME(x, y, k) ((((x)^(y)) & PREFIX(k)) == 0)
#define MIN(a, b) ((a)<(b) -> (a) : (b))

/* ---- a node */
mtype:state st[NODES];
byte life[NODES], gen[NODES], prim[NODES], want[NODES], keep[NODES];
byte n[NODES], comm[NODES], conf[NODES], injected[NODES];
HISTORY bits[NODES];
byte mem[NODES], joiner[NODES], acked[NODES*NODES];
bool fed[NODES], takes[NODES], elive[NODES];	/* fed: its joiner was sent the Snapshot */
#if EDGE
byte sent[NODES], told[NODES], owed[NODES];
bool att[NODES], ann[NODES], htold[NODES];	/* ann: owes the edge a Live */
#else
byte sent[NODES];
#endif

/* ---- a node's disk: the log, some entries behind, and its newest stamp */
#if DISKS
byte dn[NODES], dgen[NODES], dholder[NODES], dlife[NODES], dmem[NODES];
HISTORY dbits[NODES];
byte announced[NODES];		/* a joiner that asked to be marked; in the upper four bits once the stamp that names it is durable */
bool stamps[NODES], restarts[NODES];	/* owes its disk a stamp; the generation asked for is a restart's */
#endif

/* ---- sessions: the newest of each follower s is with link[s] */
byte link[NODES];
bool open[NODES], cut[NODES];			/* the follower's end is open; the wire is dead */
chan toS[NODES] = [QUEUE] of { mtype:message, byte, byte, HISTORY, byte };	/* gen, pos, .. */
chan toP[NODES] = [QUEUE] of { mtype:message, byte, byte };			/* gen, pos */

/* ---- the arbiter */
byte cur, last_activated, rec_life[GENERATIONS], rec_keep[GENERATIONS];
bool off;
chan ask[NODES] = [2] of { mtype:message, mtype:kind, byte, byte, byte, byte, byte };	/* want, base, base_holder_life, life, keep */
chan answer[NODES] = [2] of { mtype:message, byte, byte, byte, byte };		/* want, life, record's life, record's keep or OFF */
#define OFF_TOLD 255

/* ---- the edge */
#if EDGE
byte eg, conn = NONE, have, iack, isent;
HISTORY ebits;
bool attaches, knows_have, knows_iack, ehalted;
byte epoch, began;	/* an epoch ends when the edge cuts its clients off; the first input of this one has the offset began */
chan toE[NODES] = [QUEUE] of { mtype:message, byte, byte, HISTORY };
chan toN[NODES] = [QUEUE] of { mtype:message, byte, byte, byte, byte };	/* gen, offset, outputs_have, epoch */
#endif

/* ---- what happened in the world, and what was spent of the budgets */
byte released, giack;
HISTORY gbits;
byte boot;	/* the generation of the newest restart */
byte crashes, cuts, losses, repeats, voids, edge_cuts, edge_restarts, hand_overs;
bool stuck;

#define LIFE(i) (life[i]*NODES+(i)+1)
#define NODE_OF(l) (((l)-1)%NODES)
#define ALIVE(l) ((l) && LIFE(NODE_OF(l))==(l))
#define ACCEPTING(i) (st[i]==SOLO || st[i]==PROTECTED)
#define HALTED(i) (POWER_OFF && n[i]==INPUTS)
#define PRESENT(i) (ACCEPTING(i) && !HALTED(i))
#define NEWER(k, i) (PRESENT(k) && gen[k] > gen[i])
#if NODES == 2
#define ANY_NEWER(i) (NEWER(0,i) || NEWER(1,i))
#else
#define ANY_NEWER(i) (NEWER(0,i) || NEWER(1,i) || NEWER(2,i))
#endif
#define EXECUTES(i) (elive[i] && (ACCEPTING(i) || st[i]==RECLAIMING || (st[i]==ACTIVATING && prim[i]==LIFE(i))))
#define COMMITTING(i) (ACCEPTING(i) || st[i]==CEDING || st[i]==POWERING_OFF)

#define FOLLOWERS(i) (mem[i]|joiner[i])
#define FLOWS(i, s) ((FOLLOWERS(i)&B(s)) && link[s]==(i) && open[s] && !cut[s])
#define LOST_BY_PRIMARY(i, s) ((FOLLOWERS(i)&B(s)) && (link[s]!=(i) || !open[s] || cut[s]))
#define LOST_BY_SHADOW(s) (open[s] && (cut[s] || !(FOLLOWERS(link[s])&B(s))))
#define FED(i, s) (FLOWS(i, s) && ((mem[i]&B(s)) || fed[i]))
#define ROOM(i, s) (!FLOWS(i, s) || len(toS[s])<QUEUE)
#define HELD(i, s) ((mem[i]&B(s)) -> acked[(i)*NODES+(s)] : n[i])
#if NODES == 2
#define ROOMS(i) (ROOM(i,0) && ROOM(i,1))
#define HELD_BY_ALL(i) MIN(HELD(i,0), HELD(i,1))
#define EACH(do_it, i) do_it(i,0); do_it(i,1)
#else
#define ROOMS(i) (ROOM(i,0) && ROOM(i,1) && ROOM(i,2))
#define HELD_BY_ALL(i) MIN(HELD(i,0), MIN(HELD(i,1), HELD(i,2)))
#define EACH(do_it, i) do_it(i,0); do_it(i,1); do_it(i,2)
#endif

inline flush_session(s) {
	do :: toS[s]?_,_,_,_,_ :: empty(toS[s]) -> break od;
	do :: toP[s]?_,_,_ :: empty(toP[s]) -> break od
}

#define FORGET_ACKS(i, s) acked[(i)*NODES+(s)]=0
inline fall_silent(i) {
	elive[i]=0; takes[i]=0; sent[i]=0;
#if EDGE
	att[i]=0; ann[i]=0; told[i]=0; owed[i]=0; htold[i]=0;
#endif
#if DISKS
	announced[i]=0; stamps[i]=0; restarts[i]=0;
#endif
	mem[i]=0; joiner[i]=0; fed[i]=0; open[i]=0; keep[i]=0; want[i]=0;
	EACH(FORGET_ACKS, i)
}
inline wipe(i) {
	fall_silent(i);
	gen[i]=0; prim[i]=0; n[i]=0; comm[i]=0; conf[i]=0; injected[i]=0; bits[i]=0
}

#if DISKS
inline start_over(i) { wipe(i); life[i]++; st[i]=STARTING }
#else
inline start_over(i) { wipe(i); life[i]++; st[i]=JOINING }
#endif

inline freeze(i) { fall_silent(i); comm[i]=0; st[i]=FROZEN }

/* Claims are rebuilt from the state for every repetition: they never change while they are open. */
#define KIND_OF(i) (st[i]==BOOTING -> KIND_BOOT : (st[i]==RESTARTING -> KIND_RESTART : (st[i]==CLAIMING -> KIND_PROMOTE : (st[i]==VOIDING -> KIND_VOID : \
	(st[i]==POWERING_OFF -> KIND_OFF : (keep[i] -> KIND_RECONFIGURE : KIND_SOLO))))))
inline send_request(i) {
	if
	:: st[i]==ACTIVATING -> ask[i]!Activate,KIND_BOOT,want[i],0,0,LIFE(i),0
	:: else -> ask[i]!Claim,KIND_OF(i),want[i],gen[i],prim[i],LIFE(i),keep[i]
	fi
}
#define OPEN_REQUEST(i) (st[i]==BOOTING || st[i]==RESTARTING || st[i]==CLAIMING || st[i]==RECLAIMING || st[i]==VOIDING || \
	st[i]==POWERING_OFF || st[i]==ACTIVATING)

inline claim(i, state, wanted) {
	st[i]=state; want[i]=wanted;
	if :: len(ask[i])<2 -> send_request(i) :: else fi	/* full: the retry timer asks */
}

inline commit(i) {
	if :: COMMITTING(i) && HELD_BY_ALL(i) > comm[i] -> comm[i]=HELD_BY_ALL(i) :: else fi
}

/* P6: nothing more is committed from here on */
inline lose_member(i) { keep[i]=mem[i]; claim(i, RECLAIMING, gen[i]+1) }

#define NEW_GENERATION(i, s) if :: FLOWS(i,s) -> toS[s]!NewGeneration(gen[i],n[i],mem[i],0) :: else fi

#if DISKS
/* What the log on k's disk is worth: whether it may be gone on from. See ftvm/replication/restart.py */
#define WORTH(k) (dgen[k] && ((dgen[k]==last_activated && dholder[k]==rec_life[last_activated] && dmem[k]) || \
	(dgen[k]<last_activated && rec_life[last_activated]==dlife[k])))
#define MEMBERS_OF(k) (dgen[k]==last_activated -> dmem[k] : B(k))
#define HAS_ONLY_A_DISK(k) (st[k]==WAITING || st[k]==REPLAYING || st[k]==RESTARTING || (st[k]==JOINING && gen[k]==0))
#define BUSY(k) (st[k]!=STARTING && !HAS_ONLY_A_DISK(k))
#define CONCERNS(i, q) ((MEMBERS_OF(i)&B(q)) || (HAS_ONLY_A_DISK(q) && WORTH(q) && (MEMBERS_OF(q)&B(q))))
#define HOLDS_LESS(q, i) (HAS_ONLY_A_DISK(q) && !(WORTH(q) && (dn[q] > dn[i] || (dn[q]==dn[i] && q < i))))
#define ENTITLED_TO_RESTART(i, q) (WORTH(i) && !PRESENT(q) && (!CONCERNS(i, q) || HOLDS_LESS(q, i)))

/* A restart goes back to what the disks hold: what was released beyond it is lost, and said to be. But it overtakes no
machine that is in a memory, and no disk that counts holds more. */
inline check_restart(i, q) {
	assert(!(BUSY(q) && st[q]!=JOINING && gen[q] >= dgen[i] && !restarts[q]));
	assert(!(dgen[q]==dgen[i] && dholder[q]==dholder[i] && dmem[q] && dn[q] > n[i]));
	if :: released > n[i] -> released=n[i]; gbits=gbits & PREFIX(released) :: else fi;
	if :: giack > n[i] -> giack=n[i] :: else fi;
	boot=gen[i]
}

inline write_stamp(i) {
	stamps[i]=0; dlife[i]=LIFE(i); dgen[i]=gen[i];
	if
	:: elive[i] -> dholder[i]=LIFE(i); dmem[i]=B(i)|mem[i]|(announced[i]&15); dn[i]=comm[i]; dbits[i]=bits[i] & PREFIX(comm[i])
	:: else -> dholder[i]=prim[i]; dmem[i]=B(i)|B(link[i]); dn[i]=n[i]; dbits[i]=bits[i]
	fi
}
#endif

/* S5, P7 */
inline go_live(i) {
	if :: prim[i]!=LIFE(i) -> injected[i]=n[i] :: else fi;
	prim[i]=LIFE(i); elive[i]=1; takes[i]=1; sent[i]=0; want[i]=0;
#if EDGE
	att[i]=0; ann[i]=1; told[i]=0; owed[i]=0; htold[i]=0;
#endif
	mem[i]=mem[i]&keep[i]; joiner[i]=0; fed[i]=0;
	EACH(NEW_GENERATION, i);
	if
	:: keep[i]==0 ->
#if DISKS
		if
		:: restarts[i] -> check_restart(i, (1-i))
		:: else
		fi;
		restarts[i]=0; stamps[i]=1; announced[i]=0;
#endif
		assert(n[i] >= released && SAME(bits[i], gbits, released));	/* 1: every released output */
		assert(n[i] >= giack);						/* 1: every acknowledged input */
		assert(!off);
		st[i]=SOLO; commit(i)
	:: keep[i]!=0 && keep[i]==mem[i] -> keep[i]=0; st[i]=PROTECTED; commit(i)
	:: else -> lose_member(i)
	fi
}

/* 2 and 3; x: how many outputs the world has seen at least, of which the last few are released now */
inline check_released(i, x) {
	assert(rec_life[gen[i]]==LIFE(i));
	if
	:: gen[i] < boot	/* of streams that the edge has reset, or will: what a restart lost is said to be lost */
	:: gen[i] >= boot && x <= released -> assert(SAME(bits[i], gbits, x))
	:: else -> assert(SAME(bits[i], gbits, released)); released=x; gbits=bits[i] & PREFIX(x)
	fi
}

#define TELL_LOG(i, s) if :: FED(i,s) -> toS[s]!Log(gen[i],n[i],b,conf[i]) :: else fi
inline executed(i, content) {
	b = AUTHOR(i)+content;
	bits[i] = bits[i] | (b << (W*n[i])); n[i]++; injected[i]++;
	EACH(TELL_LOG, i);
	commit(i); b = 0
}

#define TELL_MARK(i, s) if :: (mem[i]&B(s)) && FLOWS(i,s) -> toS[s]!Mark(gen[i],n[i],mem[i],0) :: else fi
#define TELL_HAND_OVER(i, s) if :: (mem[i]&B(s)) && FLOWS(i,s) -> toS[s]!HandOver(gen[i],n[i],0,0) :: else fi

#define JOINS(i, k) (PRESENT(k) && k!=i && !joiner[k] && !(FOLLOWERS(k)&B(i)))
inline join(i, k) {
	flush_session(i); link[i]=k; open[i]=1; cut[i]=0;
	joiner[k]=B(i); fed[k]=0
}

/* a member's or joiner's session is over, as its primary sees it */
inline lost_follower(i, s) {
	if
	:: joiner[i]==B(s) -> joiner[i]=0; fed[i]=0;			/* P3: no claim */
#if DISKS
		if :: announced[i] -> announced[i]=0; stamps[i]=1 :: else fi
#endif
	:: else -> mem[i]=mem[i]&~B(s); acked[i*NODES+s]=0;
		if
		:: st[i]==PROTECTED || st[i]==CEDING -> lose_member(i)	/* P6 */
		:: else
		fi
	fi
}

/* P4: the gate closes with the Mark */
inline admit(i, s) {
	joiner[i]=0; fed[i]=0; mem[i]=mem[i]|B(s); acked[i*NODES+s]=n[i]; st[i]=PROTECTED;
	EACH(TELL_MARK, i)
}

inline from_follower(i, s) {
	toP[s]?m,g,a;
	if
	:: m==Ready && g==gen[i] && joiner[i]==B(s) && PRESENT(i) ->
#if DISKS
		announced[i]=B(s)	/* whoever reads this disk must know that this node may hold more */
#else
		admit(i, s)
#endif
	:: m==Ack && g==gen[i] && (mem[i]&B(s)) ->
		assert(a <= n[i]);
		if :: a > acked[i*NODES+s] -> acked[i*NODES+s]=a; commit(i) :: else fi
	:: else
	fi; m=0; g=0; a=0
}

proctype Node(byte i) {
	byte g, a, l, k;
	HISTORY b;
	mtype:message m;
end:	do
	/* ---- follower */
	:: atomic { st[i]==JOINING && !open[i] && JOINS(i,0) -> join(i,0) }
	:: atomic { st[i]==JOINING && !open[i] && JOINS(i,1) -> join(i,1) }
#if NODES == 3
	:: atomic { st[i]==JOINING && !open[i] && JOINS(i,2) -> join(i,2) }
#endif
	:: atomic { st[i]==JOINING && gen[i]==0 && open[i] && nempty(toS[i]) && nfull(toP[i]) ->	/* S1 */
		toS[i]?m,g,a,b,k;
		if
		:: m==Snapshot -> gen[i]=g; n[i]=a; bits[i]=b; conf[i]=k; prim[i]=LIFE(link[i]); toP[i]!Ready(g,0);
#if DISKS
			dn[i]=a; dbits[i]=b; dgen[i]=g; dholder[i]=prim[i]; dlife[i]=LIFE(i); dmem[i]=0	/* a new log */
#endif

		:: else
		fi; m=0; g=0; a=0; b=0; k=0 }
	:: atomic { (st[i]==IN_SYNC || (st[i]==JOINING && gen[i]!=0)) && open[i] && nempty(toS[i]) &&
		(nfull(toP[i]) || (st[i]==JOINING && toS[i]?[Log,_,_,_,_])) ->
		toS[i]?m,g,a,b,k;
		if
		:: m==Log && g==gen[i] ->
			assert(a == n[i]+1);
			bits[i] = bits[i] | (b << (W*n[i])); n[i]++;
			if :: k > conf[i] -> conf[i]=k :: else fi;
			if :: st[i]==IN_SYNC -> toP[i]!Ack(gen[i],n[i]) :: else fi
		:: m==Mark && g==gen[i] && (b & B(i)) ->		/* S2 */
			assert(a == n[i]);
			st[i]=IN_SYNC; toP[i]!Ack(gen[i],n[i]);
#if DISKS
			stamps[i]=1
#endif
		:: m==NewGeneration && g > gen[i] && (b & B(i)) ->
			assert(st[i]==IN_SYNC && a == n[i]);
			gen[i]=g; toP[i]!Ack(gen[i],n[i])
		:: m==HandOver && g==gen[i] && st[i]==IN_SYNC ->	/* S3 */
			assert(a == n[i]);
			open[i]=0; claim(i, CLAIMING, gen[i]+1)
		:: else
		fi; m=0; g=0; a=0; b=0; k=0 }
	:: atomic { st[i]==JOINING && LOST_BY_SHADOW(i) ->
		if :: gen[i]==0 -> open[i]=0 :: else -> start_over(i) fi }
	:: atomic { st[i]==IN_SYNC && LOST_BY_SHADOW(i) -> open[i]=0; st[i]=SUSPECT }
	:: atomic { st[i]==SUSPECT -> claim(i, CLAIMING, gen[i]+1) }
	:: atomic { (st[i]==SUSPECT || st[i]==FROZEN) && ANY_NEWER(i) -> start_over(i) }		/* S6 */
	:: atomic { st[i]==CONSUMING -> go_live(i) }
	:: atomic { st[i]==FROZEN && off -> wipe(i); st[i]=OVER }
	:: atomic { st[i]==FROZEN && !off && last_activated==gen[i] && (!ALIVE(rec_life[cur]) || voids<VOIDS) ->	/* S6 */
		if :: !ALIVE(rec_life[cur]) :: else -> voids++ fi;
		claim(i, VOIDING, cur+1) }

#if DISKS
	/* ---- a disk, and a start from it */
	:: atomic { stamps[i] && !announced[i] && (elive[i] || st[i]==IN_SYNC) -> write_stamp(i) }
	:: atomic { elive[i] && dgen[i]==gen[i] && dn[i] < comm[i] -> dn[i]++; dbits[i]=bits[i] & PREFIX(dn[i]) }
	:: atomic { !elive[i] && (st[i]==IN_SYNC || st[i]==SUSPECT || st[i]==CLAIMING) && dgen[i]==gen[i] && dn[i] < n[i] -> dn[i]++; dbits[i]=bits[i] & PREFIX(dn[i]) }
	:: atomic { announced[i] && announced[i] < 16 && ACCEPTING(i) -> write_stamp(i); announced[i]=announced[i]<<4|announced[i] }
	:: atomic { announced[i] >= 16 && ACCEPTING(i) && joiner[i]==(announced[i]>>4) && ROOMS(i) -> g=joiner[i]>>1; announced[i]=0; admit(i, g); g=0 }
	:: atomic { st[i]==STARTING -> if :: dgen[i] -> st[i]=WAITING :: else -> st[i]=JOINING fi }
	:: atomic { st[i]==WAITING && PRESENT(1-i) && JOINS(i,(1-i)) -> st[i]=JOINING; join(i,(1-i)) }
	:: atomic { st[i]==JOINING && gen[i]==0 && !open[i] && dgen[i] -> st[i]=WAITING }
	:: atomic { st[i]==WAITING && ENTITLED_TO_RESTART(i,(1-i)) ->
		st[i]=REPLAYING; gen[i]=last_activated; prim[i]=rec_life[last_activated] }
	:: atomic { st[i]==REPLAYING ->		/* the log now stands for what it was found to be worth, and for this life */
		n[i]=dn[i]; bits[i]=dbits[i]; conf[i]=n[i];
		dmem[i]=(dgen[i]==gen[i] -> dmem[i] : B(i)); dgen[i]=gen[i]; dholder[i]=prim[i]; dlife[i]=LIFE(i);
		restarts[i]=1; claim(i, RESTARTING, cur+1) }
#endif

	/* ---- live, followers */
	:: atomic { ACCEPTING(i) && joiner[i] && !fed[i] && FLOWS(i,(joiner[i]>>1)) && nfull(toS[joiner[i]>>1]) ->	/* P2 */
		fed[i]=1; toS[joiner[i]>>1]!Snapshot(gen[i],n[i],bits[i],conf[i]) }
	:: atomic { (FOLLOWERS(i)&B(0)) && link[0]==i && (toP[0]?[Ack,_,_] || (nempty(toP[0]) && ROOMS(i))) -> from_follower(i,0) }
	:: atomic { (FOLLOWERS(i)&B(1)) && link[1]==i && (toP[1]?[Ack,_,_] || (nempty(toP[1]) && ROOMS(i))) -> from_follower(i,1) }
	:: atomic { LOST_BY_PRIMARY(i,0) -> lost_follower(i,0) }
	:: atomic { LOST_BY_PRIMARY(i,1) -> lost_follower(i,1) }
#if NODES == 3
	:: atomic { (FOLLOWERS(i)&B(2)) && link[2]==i && (toP[2]?[Ack,_,_] || (nempty(toP[2]) && ROOMS(i))) -> from_follower(i,2) }
	:: atomic { LOST_BY_PRIMARY(i,2) -> lost_follower(i,2) }
#endif
	:: atomic { HALTED(i) && ACCEPTING(i) && joiner[i] -> joiner[i]=0; fed[i]=0 }
#if HAND_OVERS
	:: atomic { st[i]==PROTECTED && !HALTED(i) && hand_overs<HAND_OVERS && ROOMS(i) ->	/* P9 */
		hand_overs++; takes[i]=0; st[i]=CEDING; EACH(TELL_HAND_OVER, i) }
#endif

	/* ---- the engine, and the edge */
#if EDGE
	:: atomic { elive[i] && nempty(toN[i]) && (!takes[i] || ROOMS(i)) ->
		toN[i]?m,g,a,k,l;
		if
		:: m==Attach && g==gen[i] ->
			if
			:: a!=NONE -> assert(a >= conf[i]); conf[i]=a; sent[i]=a	/* 6 */
			:: else -> sent[i]=conf[i]
			fi;
			assert(k==NONE || k <= injected[i]);
			att[i]=1; told[i]=k; owed[i]=injected[i]; htold[i]=0
		:: m==Input && g==gen[i] && att[i] ->
			if :: k!=NONE && k > conf[i] -> conf[i]=k :: else fi;
			if
			:: takes[i] && EXECUTES(i) && a!=NONE && a >= injected[i] ->
				assert(a == injected[i] && a == n[i]);			/* 5 */
				executed(i, l*4)
			:: else
			fi
		:: m==Final && g==gen[i] && att[i] && htold[i] && ACCEPTING(i) -> claim(i, POWERING_OFF, gen[i]+1)	/* P10 */
		:: else
		fi; m=0; g=0; a=0; k=0; l=0 }
	:: atomic { !elive[i] && nempty(toN[i]) -> toN[i]?_,_,_,_,_ }
	:: atomic { elive[i] && ann[i] && nfull(toE[i]) -> ann[i]=0; toE[i]!Live(gen[i],0,0) }
	:: atomic { elive[i] && att[i] && sent[i] < comm[i] && nfull(toE[i]) ->			/* P5 */
		sent[i]++; check_released(i, sent[i]);
		toE[i]!Output(gen[i],sent[i]-1,bits[i] & PREFIX(sent[i])) }
	:: atomic { elive[i] && att[i] && nfull(toE[i]) && ((told[i]==NONE && comm[i] >= owed[i]) || (told[i]!=NONE && comm[i] > told[i])) ->
		told[i]=comm[i]; if :: comm[i] > giack -> giack=comm[i] :: else fi;
		toE[i]!InputAck(gen[i],comm[i],bits[i]) }
	:: atomic { HALTED(i) && elive[i] && att[i] && !htold[i] && comm[i]==n[i] && sent[i]==n[i] && told[i]==n[i] && nfull(toE[i]) ->
		htold[i]=1; toE[i]!Halted(gen[i],0,0) }
#else
	:: atomic { EXECUTES(i) && takes[i] && n[i] < INPUTS && ROOMS(i) -> executed(i, 0) }
	:: atomic { elive[i] && sent[i] < comm[i] -> sent[i]=comm[i]; check_released(i, comm[i]);
		if :: gen[i] >= boot && comm[i] > giack -> giack=comm[i] :: else fi;
		if :: comm[i] > conf[i] -> conf[i]=comm[i] :: else fi }
	:: atomic { HALTED(i) && ACCEPTING(i) && sent[i]==n[i] -> claim(i, POWERING_OFF, gen[i]+1) }
#endif

	/* ---- the arbiter's answers */
	:: atomic { OPEN_REQUEST(i) && empty(ask[i]) && empty(answer[i]) -> send_request(i) }	/* the retry timer */
#if REPEATS
	:: atomic { OPEN_REQUEST(i) && repeats<REPEATS && len(ask[i])<2 && len(ask[i])+len(answer[i])>0 -> repeats++; send_request(i) }
#endif
	:: atomic { nempty(answer[i]) && ROOMS(i) ->
		answer[i]?m,g,l,a,k;
		if
		:: !OPEN_REQUEST(i) || g!=want[i] || l!=LIFE(i) || (m==Granted && st[i]==ACTIVATING) || (m==Activated && st[i]!=ACTIVATING)
		:: else ->
			if
			:: m==Granted && st[i]==POWERING_OFF -> wipe(i); st[i]=OVER
			:: m==Granted && st[i]!=POWERING_OFF -> claim(i, ACTIVATING, g)
			:: m==Activated ->
				gen[i]=g; open[i]=0;
#if DISKS
				if :: prim[i]==LIFE(i) || n[i]==0 || restarts[i] -> go_live(i) :: else -> st[i]=CONSUMING fi
#else
				if :: prim[i]==LIFE(i) || n[i]==0 -> go_live(i) :: else -> st[i]=CONSUMING fi
#endif
			:: m==Refused && k==OFF_TOLD -> wipe(i); st[i]=OVER
#if DISKS
			:: m==Refused && k!=OFF_TOLD && restarts[i] -> wipe(i); st[i]=WAITING
#define RESTARTS(i) restarts[i]
#else
#define RESTARTS(i) 0
#endif
			:: m==Refused && k!=OFF_TOLD && st[i]==BOOTING -> start_over(i)
			:: m==Refused && k!=OFF_TOLD && st[i]==CLAIMING && a==prim[i] && (k & B(i)) ->	/* S4 */
				gen[i]++; claim(i, CLAIMING, gen[i]+1)
			:: m==Refused && k!=OFF_TOLD && !RESTARTS(i) && st[i]!=BOOTING && !(st[i]==CLAIMING && a==prim[i] && (k & B(i))) ->
				/* what it was kept for never counted, and never will: back to what did */
				if :: gen[i] > last_activated -> gen[i]=last_activated :: else fi;
				freeze(i)
			fi
		fi; m=0; g=0; l=0; a=0; k=0 }
	od
}

#define ENTITLED (kd==KIND_BOOT -> cur==0 : (!off && rec_life[bs]==h && (kd==KIND_VOID || kd==KIND_RESTART -> last_activated==bs : bs==cur)))
proctype Arbiter() {
	byte i, w, bs, h, l, k;
	mtype:kind kd;
	mtype:message m;
end:	do
	:: atomic { nfull(answer[0]) && nempty(ask[0]) -> i=0; goto decide }
#if NODES == 3
	:: atomic { nfull(answer[2]) && nempty(ask[2]) -> i=2; goto decide }
#endif
	:: atomic { nfull(answer[1]) && nempty(ask[1]) -> i=1;
decide:		ask[i]?m,kd,w,bs,h,l,k;
		assert(w < GENERATIONS-1);
		if
		:: m==Activate && w==cur && rec_life[w]==l && !off -> last_activated=w; answer[i]!Activated(w,l,0,0)
		:: m==Claim && w<=cur && rec_life[w]==l -> answer[i]!Granted(w,l,0,0)
		:: m==Claim && w==cur+1 && ENTITLED -> cur=w; rec_life[w]=l; rec_keep[w]=k;
			if :: kd==KIND_OFF -> off=1 :: else fi;
			answer[i]!Granted(w,l,0,0)
		:: else -> answer[i]!Refused(w,l,rec_life[w],(off -> OFF_TOLD : rec_keep[w]))
		fi; i=0; w=0; bs=0; h=0; l=0; k=0; kd=0; m=0 }
	od
}

#if EDGE
/* Its clients are cut off, and it takes up each stream where the node says that it stands. Nobody tells
it who was superseded (LEFT OUT): else it might begin with a zombie, and number its clients' inputs as that one says. */
inline edge_begins_anew() {
	eg=last_activated; have=0; iack=0; isent=0; ebits=0; knows_have=0; knows_iack=0; epoch++; began=0
}

proctype Edge() {
	byte i, g, a, k;
	HISTORY h;
	mtype:message m;
end:	do
	:: atomic { nempty(toE[0]) -> i=0; goto received }
#if NODES == 3
	:: atomic { nempty(toE[2]) -> i=2; goto received }
#endif
	:: atomic { nempty(toE[1]) -> i=1;
received:	toE[i]?m,g,a,h;
		if
		:: g < eg							/* the fence */
		:: g >= eg && m==Live -> eg=g; conn=i; attaches=1; ehalted=0
		:: g >= eg && m!=Live && (i!=conn || g!=eg || attaches)
		:: g >= eg && m!=Live && i==conn && g==eg && !attaches ->
			if
			:: m==Output ->
				assert(rec_life[g] && NODE_OF(rec_life[g])==i);	/* 4 */
				if :: !knows_have -> knows_have=1; have=a; ebits=h & PREFIX(a) :: else fi;
				assert(a <= have);				/* no gap */
				if
				:: a < have -> assert(SAME(h, ebits, a+1))
				:: else -> assert(SAME(h, ebits, have)); have++; ebits=h
				fi
			:: m==InputAck ->
				if
				:: !knows_iack -> knows_iack=1; iack=a; isent=a; began=a
				:: knows_iack && a > iack -> iack=a; if :: isent < a -> isent=a :: else fi;
#if EDGE_RESTARTS
					k=began;
					do	/* what is acknowledged to a client is what that client sent */
					:: k < a -> assert(EPOCH_OF(h, k)==epoch); k++
					:: else -> break
					od; k=0
#endif
				:: else
				fi
			:: m==Halted -> ehalted=1
			fi
		fi; i=0; g=0; a=0; h=0; m=0 }
	:: atomic { conn!=NONE && attaches && nfull(toN[conn]) ->
		attaches=0; isent=iack;
		toN[conn]!Attach(eg,(knows_have -> have : NONE),(knows_iack -> iack : NONE),0) }
	:: atomic { conn!=NONE && !attaches && knows_iack && isent < INPUTS && nfull(toN[conn]) ->
		toN[conn]!Input(eg,isent,(knows_have -> have : NONE),epoch); isent++ }
	:: atomic { conn!=NONE && !attaches && ehalted && (!knows_have || have==INPUTS) && (!knows_iack || iack==INPUTS) && nfull(toN[conn]) ->
		ehalted=0; toN[conn]!Final(eg,0,0,0) }
	od
}
inline flush_edge(i) {
	do :: toE[i]?_,_,_,_ :: empty(toE[i]) -> break od;
	do :: toN[i]?_,_,_,_,_ :: empty(toN[i]) -> break od
}
/* an edge's session with node i ended and began again */
inline edge_reopened(i) { flush_edge(i); att[i]=0; if :: elive[i] -> ann[i]=1 :: else fi }
#define SERVED (!knows_have || have==INPUTS) && (!knows_iack || iack==INPUTS)
#else
#define SERVED 1
#endif

inline crash(i) {
	crashes++; start_over(i);
#if REBOOT
	if :: claim(i, BOOTING, 1) :: skip fi;
#endif
	do :: answer[i]?_,_,_,_,_ :: empty(answer[i]) -> break od;
#if EDGE
	flush_edge(i); if :: conn==i -> conn=NONE; attaches=0; ehalted=0 :: else fi
#endif
}

#define CAN_CUT(s) (cuts<CUTS && open[s] && !cut[s])
#define CAN_CRASH(i) (crashes<CRASHES && st[i]!=OVER && (st[i]!=JOINING || open[i]) && st[i]!=STARTING)
#define HOLDS(k) (gen[k] >= last_activated && st[k]!=JOINING && st[k]!=OVER && st[k]!=STARTING && st[k]!=WAITING)	/* a copy of the newest state that counts */
#define GUARDS(k) (k==NODE_OF(rec_life[cur]) || ((mem[NODE_OF(rec_life[cur])]&B(k)) && st[k]==IN_SYNC && gen[k]==cur))
#if NODES == 2
#if DISKS
#define LOST (!HOLDS(0) && !HOLDS(1) && !WORTH(0) && !WORTH(1))
#else
#define LOST (!HOLDS(0) && !HOLDS(1))
#endif
#define GUARDED (GUARDS(0) && GUARDS(1))
#else
#define LOST (!HOLDS(0) && !HOLDS(1) && !HOLDS(2))
#define GUARDED (GUARDS(0) && GUARDS(1) && GUARDS(2))
#endif
#if POWER_OFF
#define HEALED (off && released==INPUTS)
#else
#define HEALED (ALIVE(rec_life[cur]) && st[NODE_OF(rec_life[cur])]==PROTECTED && gen[NODE_OF(rec_life[cur])]==cur && \
	last_activated==cur && GUARDED && released==INPUTS && SERVED)
#endif

proctype World() {
	do
#if CRASHES
	:: atomic { CAN_CRASH(0) -> crash(0) }
	:: atomic { CAN_CRASH(1) -> crash(1) }
#if NODES == 3
	:: atomic { CAN_CRASH(2) -> crash(2) }
#endif
#endif
#if CUTS
	:: atomic { CAN_CUT(0) -> cuts++; cut[0]=1 }
	:: atomic { CAN_CUT(1) -> cuts++; cut[1]=1 }
#if NODES == 3
	:: atomic { CAN_CUT(2) -> cuts++; cut[2]=1 }
#endif
#endif
#if LOSSES
	:: atomic { losses<LOSSES && nempty(ask[0]) -> losses++; ask[0]?_,_,_,_,_,_,_ }
	:: atomic { losses<LOSSES && nempty(ask[1]) -> losses++; ask[1]?_,_,_,_,_,_,_ }
	:: atomic { losses<LOSSES && nempty(answer[0]) -> losses++; answer[0]?_,_,_,_,_ }
	:: atomic { losses<LOSSES && nempty(answer[1]) -> losses++; answer[1]?_,_,_,_,_ }
#if NODES == 3
	:: atomic { losses<LOSSES && nempty(ask[2]) -> losses++; ask[2]?_,_,_,_,_,_,_ }
	:: atomic { losses<LOSSES && nempty(answer[2]) -> losses++; answer[2]?_,_,_,_,_ }
#endif
#endif
#if EDGE_CUTS
	:: atomic { edge_cuts<EDGE_CUTS && conn!=NONE -> edge_cuts++; edge_reopened(conn); conn=NONE; attaches=0; ehalted=0 }
#endif
#if EDGE_RESTARTS
	:: atomic { edge_restarts<EDGE_RESTARTS && conn!=NONE -> edge_restarts++;
		conn=NONE; attaches=0; ehalted=0; edge_begins_anew();
		edge_reopened(0); edge_reopened(1)
#if NODES == 3
		; edge_reopened(2)
#endif
		}
#endif
	:: atomic { timeout -> if :: (LOST && !off) || HEALED :: else -> stuck=1 fi; assert(!stuck); break }
	od
}

init { atomic {
	byte s;
#if EDGE
	knows_have=1; knows_iack=1;	/* the machine's first edge: everything begins at 0 */
#endif
#if PROTECTED_START
	cur=1; last_activated=1; rec_life[1]=LIFE(0);
#if DISKS
	for (s : 0 .. NODES-1) { dgen[s]=1; dholder[s]=LIFE(0); dlife[s]=LIFE(s); dmem[s]=B(0)|B(1) }
#endif
	gen[0]=1; prim[0]=LIFE(0); elive[0]=1; takes[0]=1; st[0]=PROTECTED;
#if EDGE
	ann[0]=1;
#endif
	for (s : 1 .. NODES-1) {
		gen[s]=1; prim[s]=LIFE(0); st[s]=IN_SYNC; link[s]=0; open[s]=1; mem[0]=mem[0]|B(s)
	}
#else
	for (s : 1 .. NODES-1) { st[s]=JOINING }
	claim(0, BOOTING, 1);
#endif
	s=0;
	for (s : 0 .. NODES-1) { run Node(s) }
	run Arbiter();
#if EDGE
	run Edge();
#endif
	run World() } }
