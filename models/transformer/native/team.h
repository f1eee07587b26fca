// Threads that do a task together. OpenMP's would do for one caller; where several call it in turn,
// as the threads of a page's visitors do, each has some of its own, and all of them grow slow.

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

typedef void Task(void *data, int thread, int threads);

enum {
    MAX_TEAM = 64,
    PATIENCE = 20000, // looks for a task before a thread sleeps: a wake-up costs as much as a layer
    POLITE = 200,     // looks before another thread may have the core
};

static struct {
    pthread_mutex_t used, asleep; // by a caller; for `wake`
    pthread_cond_t wake;
    Task *task;
    void *data;
    int threads;                       // that do the task, its caller's included
    int started;                       // members that there are
    atomic_int finished;               // members that have done the task
    atomic_int arrived, met;           // threads in `meet`; how often all have met
    struct Member { atomic_int tasks; } members[MAX_TEAM]; // tasks: given to it so far
} team = {.used = PTHREAD_MUTEX_INITIALIZER, .asleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local int is_together; // else the thread does its task alone

// Spins until the number is not `last`; gives up after `looks`, if not 0.
static int changes(atomic_int *number, int last, int looks) {
    for (unsigned look = 1; atomic_load(number) == last; look++) {
        if (looks && look == (unsigned)looks) return 0;
        if (look % POLITE == 0) sched_yield();
    }
    return 1;
}

// Waits until all threads of the task are here.
static void meet(void) {
    if (!is_together) return;
    int last = atomic_load(&team.met);
    if (atomic_fetch_add(&team.arrived, 1) + 1 < team.threads) changes(&team.met, last, 0);
    else {
        atomic_store(&team.arrived, 0);
        atomic_store(&team.met, last + 1);
    }
}

static void *serve(void *member) {
    struct Member *own = member;
    int thread = own - team.members + 1;
    is_together = 1;
    for (int done = 0;; done++) {
        if (!changes(&own->tasks, done, PATIENCE)) {
            pthread_mutex_lock(&team.asleep);
            while (atomic_load(&own->tasks) == done) pthread_cond_wait(&team.wake, &team.asleep);
            pthread_mutex_unlock(&team.asleep);
        }
        team.task(team.data, thread, team.threads);
        atomic_fetch_add(&team.finished, 1);
    }
    return NULL;
}

// A forked process has none of these threads.
static void forget_members(void) {
    team.started = 0;
    atomic_store(&team.arrived, 0);
    pthread_mutex_init(&team.used, NULL);
    pthread_mutex_init(&team.asleep, NULL);
    pthread_cond_init(&team.wake, NULL);
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_members); }

static void start_members(int count) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    while (team.started < count) {
        pthread_t new;
        atomic_store(&team.members[team.started].tasks, 0);
        if (pthread_create(&new, NULL, serve, team.members + team.started)) return;
        pthread_detach(new);
        team.started++;
    }
}

// While another caller has the members, a task is done by its own caller alone.
static void together(Task *task, void *data, int threads) {
    if (threads < 2 || pthread_mutex_trylock(&team.used)) {
        task(data, 0, 1);
        return;
    }
    int members = threads <= MAX_TEAM ? threads - 1 : MAX_TEAM;
    start_members(members);
    if (members > team.started) members = team.started;
    team.task = task;
    team.data = data;
    team.threads = members + 1;
    atomic_store(&team.finished, 0);
    pthread_mutex_lock(&team.asleep);
    for (int n = 0; n < members; n++) atomic_fetch_add(&team.members[n].tasks, 1);
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.asleep);
    is_together = 1;
    task(data, 0, team.threads);
    is_together = 0;
    for (int done; (done = atomic_load(&team.finished)) < members;)
        changes(&team.finished, done, 0);
    pthread_mutex_unlock(&team.used);
}
