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
    int members;                                 // threads of the task
    int started;                                 // threads that there are beside the callers'
    atomic_int number, arrived, met, finished;   // of tasks; for `meet`, twice; with the task
    struct Member { int thread, last; } each[MAX_TEAM]; // last: the task before the first one
} team = {.used = PTHREAD_MUTEX_INITIALIZER, .asleep = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local int is_member; // else the thread does its task alone

// Whether the number is another one within so many looks; 0 for any.
static int changes(atomic_int *number, int last, int looks) {
    for (int look = 1; atomic_load(number) == last; look++) {
        if (look == looks) return 0;
        if (look % POLITE == 0) sched_yield();
    }
    return 1;
}

static void meet(void) {
    if (!is_member) return;
    int last = atomic_load(&team.met);
    if (atomic_fetch_add(&team.arrived, 1) + 1 < team.members) changes(&team.met, last, 0);
    else {
        atomic_store(&team.arrived, 0);
        atomic_store(&team.met, last + 1);
    }
}

static void *member(void *own) {
    int thread = ((struct Member *)own)->thread, last = ((struct Member *)own)->last;
    is_member = 1;
    for (;; last++) {
        if (!changes(&team.number, last, PATIENCE)) {
            pthread_mutex_lock(&team.asleep);
            while (atomic_load(&team.number) == last) pthread_cond_wait(&team.wake, &team.asleep);
            pthread_mutex_unlock(&team.asleep);
        }
        if (thread < team.members) team.task(team.data, thread, team.members);
        atomic_fetch_add(&team.finished, 1);
    }
    return NULL;
}

// A forked process has none of these threads.
static void forget_members(void) {
    team.started = 0;
    pthread_mutex_init(&team.used, NULL);
    pthread_mutex_init(&team.asleep, NULL);
    pthread_cond_init(&team.wake, NULL);
}

static void start_members(int threads) {
    if (!team.started) pthread_atfork(NULL, NULL, forget_members);
    while (team.started < threads - 1) {
        pthread_t new;
        struct Member *own = &team.each[team.started];
        *own = (struct Member){team.started + 1, atomic_load(&team.number)};
        if (pthread_create(&new, NULL, member, own)) return;
        pthread_detach(new);
        team.started++;
    }
}

// While another caller has the team, a task is done by its own caller alone.
static void together(Task *task, void *data, int threads) {
    if (threads < 2 || pthread_mutex_trylock(&team.used)) {
        task(data, 0, 1);
        return;
    }
    start_members(threads < MAX_TEAM ? threads : MAX_TEAM);
    team.task = task;
    team.data = data;
    team.members = threads < team.started + 1 ? threads : team.started + 1;
    atomic_store(&team.finished, 0);
    pthread_mutex_lock(&team.asleep);
    atomic_fetch_add(&team.number, 1);
    pthread_cond_broadcast(&team.wake);
    pthread_mutex_unlock(&team.asleep);
    is_member = 1;
    task(data, 0, team.members);
    is_member = 0;
    for (int done; (done = atomic_load(&team.finished)) < team.started;)
        changes(&team.finished, done, 0);
    pthread_mutex_unlock(&team.used);
}
