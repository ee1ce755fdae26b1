/*
 * Runs programs that nobody trusts, each within limits of time, memory, output and processes.
 *
 *     cc untrusted.c -lvmm -o untrusted && ./untrusted
 *
 * The sandbox is a virtual machine: its memory is a limit that nothing in it can pass, and what a program leaves behind ends
 * with it. Within it, limits for one program are the kernel's own (ulimit), for a user that is not root.
 */
#include <stdio.h>
#include <stdlib.h>
#include <vmm.h>

static const char *const programs[][2] = {
    {"answer", "echo $((6 * 7))"},
    {"time", "while :; do :; done"},
    {"memory", "tail -c 100000000 /dev/zero"},
    {"output", "seq 10000"},
    {"processes", "for i in $(seq 100); do sleep 60 & done"},
};

/* Ends this program with what went wrong, if anything did. */
static void check(vmm_error *error) {
    if (!error) {
        return;
    }
    const char *hint = vmm_error_hint(error);
    fprintf(stderr, "%s: %s%s%s\n", vmm_error_code(error), vmm_error_message(error), hint ? "; " : "", hint ? hint : "");
    vmm_error_free(error);
    exit(1);
}

/* Runs one program, which belongs to the user `nobody`. */
static void run(const vmm_sandbox *sandbox, const char *name, const char *program) {
    const char *const argv[] = {"sh", "-c", "ulimit -v 65536 -u 32; exec sh -c \"$1\"", "sh", program, NULL};
    const vmm_command command = {
        .argv = argv,
        .user = "nobody",
        .timeout_ms = 5000,
        .output_limit = 1000,
    };
    vmm_output *output;
    check(vmm_exec(sandbox, &command, &output));
    printf("%s: status %d%s%s\n", name, output->status, output->timed_out ? ", its time was up" : "",
           output->truncated ? ", it wrote too much" : "");
    vmm_output_free(output);
}

int main(void) {
    vmm_options *options;
    vmm_sandbox *sandbox;
    check(vmm_options_new("alpine", &options));
    check(vmm_options_set(options, "memory", "256M"));
    check(vmm_open(options, &sandbox));
    vmm_options_free(options);
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        run(sandbox, programs[i][0], programs[i][1]);
    }
    /* It ends here; it would also, had this program been killed. */
    vmm_free(sandbox);
    return 0;
}
