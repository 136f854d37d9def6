// Argo CD's application controller and repository server in one executable: the
// first argument names the program and the rest are that program's own arguments.
package main

import (
	"fmt"
	"os"

	controller "github.com/argoproj/argo-cd/v3/cmd/argocd-application-controller/commands"
	reposerver "github.com/argoproj/argo-cd/v3/cmd/argocd-repo-server/commands"
	"github.com/argoproj/argo-cd/v3/util/log"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

var programs = map[string]func() *cobra.Command{
	"controller":  controller.NewCommand,
	"repo-server": reposerver.NewCommand,
}

func main() {
	klog.SetLogger(log.NewLogrusLogger(log.NewWithCurrentConfig()))
	if len(os.Args) > 1 {
		if command, ok := programs[os.Args[1]]; ok {
			os.Args = os.Args[1:]
			if command().Execute() != nil {
				os.Exit(1)
			}
			return
		}
	}
	fmt.Fprintf(os.Stderr, "usage: %s controller|repo-server [ARGUMENT...]\n", os.Args[0])
	os.Exit(2)
}
