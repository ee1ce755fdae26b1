/*
 * vmm: virtual machines for running code in a sandbox.
 *
 *     vmm_options *options;
 *     vmm_sandbox *sandbox;
 *     vmm_error *error = vmm_options_new("alpine", &options);
 *     if (!error) error = vmm_options_set(options, "memory", "256M");
 *     if (!error) error = vmm_open(options, &sandbox);
 *
 * Link with -lvmm. The library runs each sandbox in a process of its own, the executable `vmm`, which it finds by
 * VMM_BIN, beside libvmm.so, beside the program, or on the path.
 *
 * Rules that hold for every call:
 *
 * - It returns NULL if all went well, or else an error, which is the caller's to free. Nothing is printed, nothing is
 *   kept per thread or globally, no signal handler is installed, and no panic of the library's passes.
 * - What it makes is put where the last argument points, and is the caller's to free by the function that is named
 *   after it; where it fails, NULL is put there. Every function that frees takes NULL.
 * - A pointer must not be NULL unless its description allows it; NULL is the error "null_pointer". Names, options,
 *   users and values are UTF-8 ("invalid_utf8" if they are not); paths, arguments and variables are any bytes up to
 *   the zero.
 * - Objects may be used by several threads at once, except options, and except while they are freed.
 * - JSON has the shape that `vmm ps --json` and its like have: names stay, new ones may come.
 */
#ifndef VMM_H
#define VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An error. */
typedef struct vmm_error vmm_error;
/* What a sandbox is to be. */
typedef struct vmm_options vmm_options;
/* A sandbox: a VM that runs, or one that ran. */
typedef struct vmm_sandbox vmm_sandbox;
/* A command that runs in a sandbox. */
typedef struct vmm_process vmm_process;
/* What makes calls that wait give up, from any thread. */
typedef struct vmm_cancel vmm_cancel;

/* The version of this library, such as "0.1.0". */
const char *vmm_version(void);

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

/* A stable word for programs, such as "no_such_vm"; docs/embedding.md lists them. The texts live as long as the error. */
const char *vmm_error_code(const vmm_error *error);
/* What went wrong and why, in a line, for people. */
const char *vmm_error_message(const vmm_error *error);
/* What to do about it, or NULL. */
const char *vmm_error_hint(const vmm_error *error);
/* The guest's last words on its console where they say something about it, or NULL. They are the guest's: print them
 * to a terminal only without their control characters. */
const char *vmm_error_console(const vmm_error *error);
void vmm_error_free(vmm_error *error);

/* ---- Bytes that a call hands out: a file's contents, or JSON ------------------------------------------------------ */

typedef struct vmm_bytes {
    const uint8_t *data; /* behind them is a zero, which is not counted: text can be used as it is */
    size_t length;
} vmm_bytes;

void vmm_bytes_free(vmm_bytes *bytes);

/* ---- Giving up --------------------------------------------------------------------------------------------------- */

vmm_error *vmm_cancel_new(vmm_cancel **cancel);
/* Ends, for good, every call that this was given to; they fail with "cancelled". */
vmm_error *vmm_cancel_now(const vmm_cancel *cancel);
void vmm_cancel_free(vmm_cancel *cancel);

/* ---- Sandboxes ---------------------------------------------------------------------------------------------------- */

/* Options for a new sandbox from this image; or, with NULL, for one from a base_file, or for vmm_start. */
vmm_error *vmm_options_new(const char *image, vmm_options **options);

/*
 * Sets an option. Values are written as on the command line, and one that is wrong is an error at once.
 *
 *   name              names it: its disk is kept until it is removed. Without a name nothing is left of it.
 *   cpus              its processors: "1"
 *   memory            such as "512M", "2G"
 *   disk_size         such as "20G": its file system grows with it
 *   env               "KEY=VALUE" for every command in it; may be set again and again
 *   detached          "true": it outlives its handle and this process, until it is stopped
 *   home              the folder with images and sandboxes, instead of VMM_HOME
 *   pull              "missing": the image is fetched if it is not there; or "never"
 *   engine            "auto", "kvm", "hvf", "software"
 *   require_hardware  "true": refuses an engine that is no hardware boundary
 *   ready_timeout     how long its start may take: "120s"
 *   executable        the `vmm` that runs it
 *   host_name         the name that the guest gives itself
 *   root_writes       where writes to its root go: "no" (to its disk), "memory", "disk" (to one of their own)
 *   disk              one more disk: "FILE[,ro][,format=raw|qcow2]"; may be set again and again
 *   overlay           the file that has what it writes to its disk
 *   init              who is PID 1: "agent", or "image" for the image's own init
 *   nested            "true": it can run VMs itself
 *   restart           what follows an end that nobody asked for: "no", "on-failure", "on-failure:N", "always"
 *   health_check      a line for the guest's shell that says whether it does what it is for; with health_interval,
 *                     health_timeout, health_start_period ("10s") and health_retries ("3")
 *   stop_timeout      how long its guest may take to shut down where whoever stops it does not say
 *   remove_at_end     "true": nothing of it is kept when it ends, though it has a name
 *   balloon, huge_pages, console, kernel, command_line, boot_profile, seccomp: as SandboxBuilder has them
 *   base_file         a disk file instead of an image, which stays as it is; with base_format, base_initrd, base_modules
 */
vmm_error *vmm_options_set(vmm_options *options, const char *name, const char *value);

/* Has vmm_cancel_now end the start, of which nothing is left then. */
vmm_error *vmm_options_cancel(vmm_options *options, const vmm_cancel *cancel);

/* Is told what a start is doing. `total` is 0 where it is not known. It may be called from another thread of the
 * library's, never by two at once, and must not free the options. */
typedef void (*vmm_progress_function)(void *context, const char *step, uint64_t done, uint64_t total);
vmm_error *vmm_options_progress(vmm_options *options, vmm_progress_function function, void *context);

void vmm_options_free(vmm_options *options);

/* Makes a new sandbox, starts it and waits until commands can run in it. The options can be used again. */
vmm_error *vmm_open(const vmm_options *options, vmm_sandbox **sandbox);

/* Starts a sandbox that was made before and does not run, by its name. Of the options only home, detached,
 * ready_timeout, executable, seccomp, cancel and progress can be said. */
vmm_error *vmm_start(const vmm_options *options, const char *name, vmm_sandbox **sandbox);

/* A handle on a sandbox that is there, whether it runs or not, by name or id. The handle does not own it. `home` may be
 * NULL. */
vmm_error *vmm_attach(const char *home, const char *name, vmm_sandbox **sandbox);

/* What is known of every sandbox, as a JSON array. `home` may be NULL. */
vmm_error *vmm_list(const char *home, vmm_bytes **json);

/* What to call it: its name, or else its id. It lives as long as the sandbox. */
const char *vmm_name(const vmm_sandbox *sandbox);
const char *vmm_id(const vmm_sandbox *sandbox);

/* What is known of it, as JSON. */
vmm_error *vmm_info(const vmm_sandbox *sandbox, vmm_bytes **json);
/* How its guest is, as JSON: load, memory, disks, uptime. */
vmm_error *vmm_health(const vmm_sandbox *sandbox, vmm_bytes **json);
/* The commands that were started in it, as a JSON array. */
vmm_error *vmm_processes(const vmm_sandbox *sandbox, vmm_bytes **json);

/* Waits until commands can run in it, when somebody else starts it. `cancel` may be NULL. */
vmm_error *vmm_wait_until_ready(const vmm_sandbox *sandbox, const vmm_cancel *cancel);
/* Waits until it has ended; how is told as JSON. `cancel` may be NULL. */
vmm_error *vmm_wait(const vmm_sandbox *sandbox, const vmm_cancel *cancel, vmm_bytes **json);

/* Shuts it down in order; a guest that takes longer is stopped at once. -1 is as long as its stop_timeout says. */
vmm_error *vmm_stop(const vmm_sandbox *sandbox, int64_t grace_ms);
/* Stops it at once. */
vmm_error *vmm_kill(const vmm_sandbox *sandbox);

/* Has its processors stand still: it keeps its memory and answers nothing ("paused"). One that stands still is left so. */
vmm_error *vmm_pause(const vmm_sandbox *sandbox);
/* Lets them go on. Its clock is right when this returns. */
vmm_error *vmm_resume(const vmm_sandbox *sandbox);
/* Removes it with its disk. One that runs is only removed with `force`. The handle is still to be freed. */
vmm_error *vmm_remove(const vmm_sandbox *sandbox, bool force);

/* Frees a handle. One of vmm_open or vmm_start ends its sandbox by that, unless that is detached; so does the end of
 * this process, however it comes. In a process that was forked off it does nothing to the sandbox. */
void vmm_free(vmm_sandbox *sandbox);

/* ---- Commands ----------------------------------------------------------------------------------------------------- */

/* A command. What is zero is not said: `vmm_command command = {0};`, or name the fields in an initialiser. */
typedef struct vmm_command {
    const char *const *argv; /* the program and its arguments, then NULL; NULL: the user's login shell */
    const char *const *env;  /* "KEY=VALUE", then NULL; may be NULL */
    const char *workdir;     /* the folder that it starts in; NULL: the user's own */
    const char *user;        /* a name or number, perhaps with ":group"; NULL: root */
    const uint8_t *input;    /* what it reads; NULL: nothing */
    size_t input_length;
    bool input_piped;        /* for vmm_spawn: it reads what vmm_process_write sends */
    uint16_t rows;           /* with columns: gives it a terminal; its output is then one stream */
    uint16_t columns;
    uint64_t timeout_ms;     /* kills it, with everything that it started, after so long; 0: never */
    size_t output_limit;     /* for vmm_exec: bytes that are kept of each output; 0: 16 MiB */
    const vmm_cancel *cancel; /* for vmm_exec: ends it, with everything that it started; may be NULL */
    const void *reserved[4]; /* NULL */
} vmm_command;

/* How a command ended and what it wrote. */
typedef struct vmm_output {
    int32_t status;     /* as a shell has it: its code, 128 and the signal, 124 when its time was up */
    int32_t signal;     /* that killed it, or 0 */
    bool timed_out;
    bool truncated;     /* it wrote more than output_limit; the rest was dropped */
    const uint8_t *out; /* its standard output; behind it is a zero, which is not counted */
    size_t out_length;
    const uint8_t *err; /* its standard error, likewise */
    size_t err_length;
} vmm_output;

/* Runs a command to its end and collects what it writes. */
vmm_error *vmm_exec(const vmm_sandbox *sandbox, const vmm_command *command, vmm_output **output);
void vmm_output_free(vmm_output *output);

/* Starts a command, to be talked to while it runs. One thread may read it while others write and signal. */
vmm_error *vmm_spawn(const vmm_sandbox *sandbox, const vmm_command *command, vmm_process **process);
/* Starts a command and leaves it to itself; its id finds it again. */
vmm_error *vmm_spawn_detached(const vmm_sandbox *sandbox, const vmm_command *command, uint64_t *id);
/* Goes back to a command that was started before: its output from now on, after the last of what it wrote meanwhile. */
vmm_error *vmm_attach_process(const vmm_sandbox *sandbox, uint64_t id, vmm_process **process);
uint64_t vmm_process_id(const vmm_process *process);

#define VMM_STDOUT 1
#define VMM_STDERR 2
#define VMM_ENDED 3

/* What a command brings. */
typedef struct vmm_event {
    int32_t kind;        /* VMM_STDOUT, VMM_STDERR, or VMM_ENDED after all output */
    int32_t status;      /* of VMM_ENDED, as in vmm_output */
    int32_t signal;
    bool timed_out;
    const uint8_t *data; /* what it wrote; behind it is a zero, which is not counted */
    size_t length;
} vmm_event;

/* What it brings next. A command whose output nobody reads waits, as with a pipe. After `timeout_ms` this fails with
 * "agent_timeout", and nothing is lost; -1 is no limit. `cancel` ends the wait, not the command, and may be NULL. */
vmm_error *vmm_process_next(const vmm_process *process, int64_t timeout_ms, const vmm_cancel *cancel,
                            vmm_event **event);
void vmm_event_free(vmm_event *event);

/* Writes all of this to its input, and waits while it does not read. */
vmm_error *vmm_process_write(const vmm_process *process, const uint8_t *data, size_t length);
/* Ends its input. */
vmm_error *vmm_process_close_input(const vmm_process *process);
/* Sends a signal to its process group, by its number in Linux. */
vmm_error *vmm_process_signal(const vmm_process *process, int32_t signal);
/* Tells it that its terminal has another size now. */
vmm_error *vmm_process_resize(const vmm_process *process, uint16_t rows, uint16_t columns);
/* Lets it go on by itself; vmm_process_next fails with "detached" from then on. */
vmm_error *vmm_process_detach(const vmm_process *process);
/* Frees a handle. A command of vmm_spawn that still runs ends by that, with everything that it started. */
void vmm_process_free(vmm_process *process);

/* ---- Files -------------------------------------------------------------------------------------------------------- */

/* Writes a file in the guest, which is root's and that all may read. One that is there is replaced, all at once. */
vmm_error *vmm_write_file(const vmm_sandbox *sandbox, const char *path, const uint8_t *data, size_t length);
/* Reads a file of the guest. One that is longer than `limit` is an error. */
vmm_error *vmm_read_file(const vmm_sandbox *sandbox, const char *path, size_t limit, vmm_bytes **contents);

/* How files are copied. What is zero is as usual. */
typedef struct vmm_copy {
    const char *owner;        /* whose the copies become: "keep", or "user:group"; NULL: kept for root, otherwise root's
                                 in the guest and ours here */
    bool set_id;              /* keeps set-user-id and set-group-id bits */
    bool devices;             /* copies devices and pipes, which are refused otherwise */
    uint64_t max_bytes;       /* out of the guest: ends a copy of more than so many bytes, */
    uint64_t max_entries;     /* or of more than so many files and folders; 0: of any number */
    uint64_t patience_ms;     /* how long the guest may do nothing; 0: 2 minutes */
    const vmm_cancel *cancel; /* may be NULL */
    const void *reserved[4];  /* NULL */
} vmm_copy;

/* Copies a file or tree into the guest or out of it, by the rules of `cp -a`. A copy that fails leaves a target that was
 * not there, and single files, as they were. `copy` may be NULL; so may `copied`, which is told as JSON what went. */
vmm_error *vmm_copy_in(const vmm_sandbox *sandbox, const char *source, const char *target, const vmm_copy *copy,
                       vmm_bytes **copied);
vmm_error *vmm_copy_out(const vmm_sandbox *sandbox, const char *source, const char *target, const vmm_copy *copy,
                        vmm_bytes **copied);

#ifdef __cplusplus
}
#endif

#endif
